"""Sums over a forest with cycles, by the number of free nodes: power series cut off at a degree.

A vertex v of the forest is a series whose coefficient k sums its derivations with k free nodes:

    v_k = sum over edges  share * sum over i + j = (k - own) / times  of a_i b_j

with a and b the vertices below an edge. Every cycle has a free node, so v_k never needs itself:
`least` says where each series starts, and from there coefficients are made in its order.

Source: power series for grammars (Chomsky & Schutzenberger 1963); least degrees by Knuth (1977).
"""

import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import add, mul
from typing import Generic, TypeVar

from grammar.ast import deep
from grammar.errors import SpaceError
from grammar.exact_state import Edge, Vertex

T = TypeVar("T", int, float)


@dataclass(frozen=True, slots=True)
class Sums(Generic[T]):
    """A semiring: its zero and one, the weight of a share, product, sum, and sum of products."""

    zero: T
    one: T
    weight: Callable[[float], T]
    times: Callable[[T, T], T]
    total: Callable[[Sequence[T]], T]
    rows: Callable[[Sequence[T], Sequence[T]], T]


def log_sum(logs: Sequence[float]) -> float:
    """The logarithm of a sum of exponentials."""
    top = max(logs)
    if len(logs) == 1 or top == -math.inf:
        return top
    return top + math.log(math.fsum(math.exp(x - top) for x in logs))


COUNT: Sums[int] = Sums(0, 1, lambda share: 1, mul, sum, lambda a, b: sum(map(mul, a, b)))
LOG: Sums[float] = Sums(
    -math.inf, 0.0, math.log, add, log_sum, lambda a, b: log_sum(list(map(add, a, b)))
)
BEST: Sums[float] = Sums(-math.inf, 0.0, math.log, add, max, lambda a, b: max(map(add, a, b)))


def least(root: Vertex) -> Mapping[Vertex, int]:
    """The fewest free nodes of each vertex that derives anything; it stands after those that it
    needs for them."""
    edges: list[tuple[Vertex, Edge]] = []
    above: dict[Vertex, list[int]] = {}
    seen, stack = {root}, [root]
    while stack:
        vertex = stack.pop()
        for edge in vertex.edges:
            for child in edge[5]:
                above.setdefault(child, []).append(len(edges))
                if child not in seen:
                    seen.add(child)
                    stack.append(child)
            edges.append((vertex, edge))
    missing = [len(edge[5]) for _, edge in edges]
    heap = [(edge[2], i) for i, (_, edge) in enumerate(edges) if not edge[5]]
    heapq.heapify(heap)
    found: dict[Vertex, int] = {}
    while heap:
        degree, i = heapq.heappop(heap)
        vertex = edges[i][0]
        if vertex in found:
            continue
        found[vertex] = degree
        for j in above.get(vertex, ()):
            missing[j] -= 1
            if not missing[j]:
                edge = edges[j][1]
                heapq.heappush(heap, (edge[2] + edge[4] * sum(found[c] for c in edge[5]), j))
    return found


class Graded(Generic[T]):
    """The series of all vertices below a root in one semiring, up to the root's degree `most`."""

    def __init__(self, root: Vertex, low: Mapping[Vertex, int], most: int, sums: Sums[T]) -> None:
        self.root, self.low = root, low
        self.sums: Sums[T] = sums
        self._rows: dict[Vertex, list[T]] = {v: [] for v in low}
        self._open: set[Vertex] = set()
        with deep():
            for slack in range(most - low[root] + 1):
                for vertex in low:
                    self._upto(vertex, low[vertex] + slack)

    def row(self) -> Mapping[int, T]:
        """The root's coefficients by degree."""
        return dict(enumerate(self._rows[self.root], self.low[self.root]))

    def _upto(self, vertex: Vertex, most: int) -> list[T]:
        row, low = self._rows[vertex], self.low[vertex]
        while low + len(row) <= most:
            if vertex in self._open:
                raise SpaceError("this space may reach itself without an op in between")
            self._open.add(vertex)
            terms = [t for e in vertex.edges for t in self._term(e, low + len(row))]
            self._open.discard(vertex)
            row.append(self.sums.total(terms) if terms else self.sums.zero)
        return row

    def _term(self, edge: Edge, degree: int) -> Iterator[T]:
        """What an edge adds to a coefficient; nothing where its series starts later."""
        rest, odd = divmod(degree - edge[2], edge[4])
        slack = rest - sum(self.low.get(c, rest + 1) for c in edge[5])
        if odd or slack < 0 or (not edge[5] and slack):
            return
        share = self.sums.weight(edge[0])
        if not edge[5]:
            yield share
            return
        rows = [self._upto(c, self.low[c] + slack) for c in edge[5]]
        if len(rows) == 1:
            yield self.sums.times(share, rows[0][slack])
            return
        first, second = rows
        yield self.sums.times(share, self.sums.rows(first[: slack + 1], second[slack::-1]))

    def picks(self, degree: int) -> tuple[int, ...]:
        """The picks of the best derivation of this degree, in the order of the walk (BEST only)."""
        found: list[int] = []
        stack = [(self.root, degree)]
        while stack:
            vertex, degree = stack.pop()
            worth = [max(self._term(e, degree), default=-math.inf) for e in vertex.edges]
            edge = vertex.edges[worth.index(max(worth))]
            if edge[1] >= 0:
                found.append(edge[1])
            rest = (degree - edge[2]) // edge[4]
            slack = rest - sum(self.low[c] for c in edge[5])
            stack.extend(reversed(self._split(edge[5], slack)))
        return tuple(found)

    def _split(self, below: Sequence[Vertex], slack: int) -> list[tuple[Vertex, int]]:
        """How the best derivation spreads what is left among two vertices."""
        if len(below) < 2:
            return [(c, self.low[c] + slack) for c in below]
        a, b = below
        first, second = self._rows[a], self._rows[b]
        i = max(range(slack + 1), key=lambda i: first[i] + second[slack - i])
        return [(a, self.low[a] + i), (b, self.low[b] + slack - i)]
