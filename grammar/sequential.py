"""One derivation at a time, its size fixed before: for spaces whose exact sums do not fit.

The exact walk runs with one option in the place of all: where a part may reach itself, one
alternative is taken and one outcome is carried on, while parts without recursion keep all their
outcomes, summed exactly. The steps are guided by a *blurred* algebra, whose few values let the
sums be exact for every size: the number of nodes is drawn from these sums, then split among the
parts, so that no budget of nodes is ever overrun. An outcome is carried on only if the next
part, where that has no recursion, can follow it within what is left of the budget.

A step that excludes anything but the impossible would bias the estimate; so what the blurred sums
call impossible keeps a share of `DOUBT`. `propose` gives up where nothing can follow. Proposals
favour what is easily completed; `grammar/accept.py` makes draws of them.
"""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from copy import copy

from grammar.accept import Accept, Proposed
from grammar.ast import Space, deep
from grammar.blurry import Blur, Blurry, edge_log, log_mass
from grammar.errors import SpaceError
from grammar.exact_state import (
    Branches,
    Edge,
    Out,
    Spot,
    Vertex,
)
from grammar.exact_values import State
from grammar.once import Dead, Once
from grammar.values import Values
from grammar.walk import Algebra, Infeasible, Limits, Sample, Site

DRAWS = 2_000


class Sequential:
    """A `Proposer` for any space: see the module."""

    def __init__(
        self,
        space: Space,
        algebra: Algebra,
        limits: Limits,
        *,
        layered: frozenset[str] = frozenset(),
        blurred: Algebra,
        blur: Blur,
    ) -> None:
        self.space, self.algebra, self.limits = space, algebra, limits
        self.layered, self.blur = layered, blur
        self.blurry = Blurry(space, blurred, limits.nodes)
        self.start = Values(space, Sample(random.Random(0))).sentence()
        inputs = algebra.inputs()
        self.x = next(iter(inputs.values())) if len(inputs) == 1 else None
        self.walker = Once(space, algebra, limits, self.blurry, blur)
        self.walker.layered = layered
        self.sizes = self._sizes()

    def weighted(self, shares: Mapping[int, tuple[float, ...]]) -> "Sequential":
        """The proposer of the same space with other weights of its choices, by their identity; its
        guides stay those of the space's own."""
        made = copy(self)
        made.walker = Once(self.space, self.algebra, self.limits, self.blurry, self.blur)
        made.walker.layered, made.walker._applied = self.layered, self.walker._applied
        made.walker._shares.update(shares)
        return made

    def spread(self, seen: Sequence[Proposed]) -> "Sequential":
        """The same proposer with sizes as often, by half, as they have weight among proposals."""
        if not seen:
            return self
        top = max(p.log_weight for p in seen)
        whole = math.fsum(math.exp(p.log_weight - top) for p in seen)
        total = math.fsum(self.sizes.values())
        sizes = {n: mass / total for n, mass in self.sizes.items()}
        for p in seen:
            sizes[p.nodes] += math.exp(p.log_weight - top) / whole
        made = copy(self)
        made.sizes = sizes
        return made

    def _sizes(self) -> dict[int, float]:
        """The mass of each size under the blurred algebra."""
        floor = self.walker.reach(self.start, self.walker.blank).floor
        x, found = self.blur(self.x), {}
        with deep():
            for n in range(max(1, floor), self.limits.nodes + 1):
                mass = self.blurry.mass(self.start, self.blurry.blank, x, n)
                if mass > 0:
                    found[n] = mass
        if not found:
            raise self.blurry.refusal or SpaceError("no sentence of this space fits")
        return found

    def propose(self, rng: random.Random) -> Proposed | None:
        try:
            return self._once(rng)
        except Dead:
            return None

    def draw(self, rng: random.Random, accept: Accept | None) -> Proposed:
        if accept is not None:
            return accept.draw(rng)
        for _ in range(DRAWS):
            found = self.propose(rng)
            if found is not None:
                return found
        raise SpaceError("hardly anything fits this budget", hint="loosen it")

    def _once(self, rng: random.Random) -> Proposed:
        walker = self.walker
        walker.rng, walker.log_q = rng, 0.0
        walker.base, walker.scale, walker.exactly = (0, 0, 0), 1, 0
        with deep():
            sizes = list(self.sizes)
            size = sizes[walker.take(list(self.sizes.values()))]
            at = State(
                Spot("", "", "", "", walker.blank), dict(self.algebra.inputs()), (), frozenset()
            )
            edges: list[Edge] = []
            for out, vertex in walker.walk(self.start, at, self.x, size, size):
                if out.nodes == size and self._ends(out):
                    edges.append((1.0, -1, 0, 0, 1, (vertex,)))
            if not edges:
                raise Dead
            root = Vertex(edges)
            whole = log_mass(root)
            return self._picked(root, whole - walker.log_q, size, rng)

    def _ends(self, out: Out) -> bool:
        value = out.value
        if isinstance(value, Branches):
            value = dict(zip(value.names, value.values, strict=True))
        try:
            self.algebra.finish(value, Site("", 0, self.start))
        except Infeasible:
            return False
        return True

    @staticmethod
    def _picked(root: Vertex, log_weight: float, size: int, rng: random.Random) -> Proposed:
        picks: list[int] = []
        log_prob, params, flops = 0.0, 0, 0
        for edge, times in _edges(root, rng):
            log_prob += math.log(edge[0])
            if edge[1] >= 0:
                picks.append(edge[1])
            params, flops = params + times * edge[2], flops + times * edge[3]
        return Proposed(tuple(picks), log_prob, log_weight, size, params, flops)


def _edges(root: Vertex, rng: random.Random) -> Iterator[tuple[Edge, int]]:
    """The edges of one way down, and how many copies each stands for."""
    stack = [(root, 1)]
    while stack:
        vertex, times = stack.pop()
        edge = vertex.edges[0]
        if len(vertex.edges) > 1:
            top = log_mass(vertex)
            edge = rng.choices(vertex.edges, [math.exp(edge_log(e) - top) for e in vertex.edges])[0]
        yield edge, times
        stack.extend((v, times * edge[4]) for v in reversed(edge[5]))
