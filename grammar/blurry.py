"""Sums over a blurred algebra: roughly how likely each part is at each size, and what it gives."""

import math
from collections.abc import Callable, Sequence

from grammar.ast import Expr, Seq, Space
from grammar.exact_forms import Inside
from grammar.exact_state import (
    Closure,
    Edge,
    Env,
    Spot,
    Vertex,
)
from grammar.exact_values import State
from grammar.walk import Algebra, Limits

CAP = 3_000_000  # steps of the sums
Masses = dict[object, float]
Blur = Callable[[object], object]  # from a value to its blurred one


class Blurry(Inside):
    """Masses of parts by size, under the blurred algebra."""

    layered: frozenset[str] = frozenset()

    def __init__(self, space: Space, algebra: Algebra, nodes: int) -> None:
        super().__init__(space, algebra, Limits(nodes))
        self._memo, self._applied, self.cap = {}, {}, CAP
        self._masses: dict[object, Masses] = {}
        self._suffixes: dict[tuple[int, int], Expr] = {}
        self._turned: dict[Env, Env] = {}

    def masses(self, expr: Expr, env: Env, x: object, size: int) -> Masses:
        """Outcome to mass of `expr` with exactly `size` nodes; names and sharing are left out."""
        turned = self.turned(env)
        key = (id(expr), turned, x, size)
        found = self._masses.get(key)
        if found is None:
            self._held.append(expr)
            found = self._masses[key] = {}
            at = State(Spot("", "", "", "", turned), {}, (), frozenset())
            for out, vertex in self.walk(expr, at, x, size, size):
                found[out.value] = found.get(out.value, 0.0) + math.exp(log_mass(vertex))
        return found

    def mass(self, expr: Expr, env: Env, x: object, size: int) -> float:
        return sum(self.masses(expr, env, x, size).values())

    def suffix(self, items: Sequence[Expr], i: int) -> Expr:
        """`items[i:]` as one expression."""
        key = (id(items), i)
        if key not in self._suffixes:
            self._held.append(items)
            rest = tuple(items[i:])
            self._suffixes[key] = rest[0] if len(rest) == 1 else Seq(rest)
        return self._suffixes[key]

    def turned(self, env: Env) -> Env:
        """The arguments in force, without places and names."""
        if env not in self._turned:
            pairs = []
            for name, closure in env.closures.items():
                spot = Spot("", "", "", "", self.turned(closure.spot.env))
                pairs.append((name, Closure(closure.body, spot, ())))
            self._turned[env] = self.env(tuple(pairs))
        return self._turned[env]


def log_mass(vertex: Vertex) -> float:
    """The logarithm of a vertex's mass, kept in it."""
    if vertex.log is None:
        logs = [edge_log(edge) for edge in vertex.edges]
        top = max(logs)
        vertex.log = top + math.log(math.fsum(math.exp(x - top) for x in logs))
    return vertex.log


def edge_log(edge: Edge) -> float:
    return math.log(edge[0]) + sum(log_mass(v) for v in edge[5])
