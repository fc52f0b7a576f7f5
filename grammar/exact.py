"""Exact derivation: the whole space summed, so that it can be counted, measured and drawn from.

`Exact` holds a forest of all valid derivations within a budget (packed: what no later part can tell
apart is shared). Over it run sums in several semirings: log-probability, whole-number counts,
entropy, cost ranges. Drawing goes down the forest, never into a dead end, and gives the picks in
the order in which the walk asks for them; `grammar/derive.py` replays them, so a sentence has one
meaning. The budget on nodes is exact; so are those on params and FLOPs (no bins). The limit on the
nesting of rules is not part of it.

Source: inside sums (Baker 1979); semiring parsing (Goodman 1999).
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, TypeVar

from grammar.ast import Space, deep
from grammar.derive import derivations
from grammar.errors import SpaceError
from grammar.exact_forms import Inside
from grammar.exact_state import EVERY, Branches, Edge, Spot, Vertex
from grammar.exact_values import State
from grammar.values import Values
from grammar.walk import Algebra, Derivation, Infeasible, Limits, Sample, Site

T = TypeVar("T")


@dataclass(slots=True)
class Ordered:
    """A chooser that takes known options one after the other."""

    picks: Sequence[int]
    taken: int = 0

    def pick(self, address: str, options: Sequence[int], weights: Sequence[float]) -> int:
        index = self.picks[self.taken]
        self.taken += 1
        return index


@dataclass(frozen=True, slots=True)
class Drawn:
    """A draw: the options taken in the order of the walk, and `log_prob` (natural) of this
    derivation in the conditioned distribution."""

    picks: tuple[int, ...]
    log_prob: float
    kind: Literal["exact", "estimate"] = "exact"


@dataclass(frozen=True, slots=True)
class Ranges:
    """The least and the most that a valid derivation within the budget costs."""

    params: tuple[int, int]
    flops: tuple[int, int]
    kind: Literal["exact", "estimate"] = "exact"


class Whole(Inside):
    """The forest of a space: one vertex a size."""

    def __init__(
        self,
        space: Space,
        algebra: Algebra,
        limits: Limits,
        layered: frozenset[str],
        spent: bool,
        cap: int | None,
    ) -> None:
        super().__init__(space, algebra, limits)
        self.spent, self.cap = spent, cap
        self._memo, self._applied, self.layered = {}, {}, layered

    def roots(self) -> dict[int, Vertex]:
        """Number of nodes to the vertex of all valid derivations of that size."""
        start = Values(self.space, Sample(random.Random(0))).sentence()
        inputs = self.algebra.inputs()
        x = next(iter(inputs.values())) if len(inputs) == 1 else None
        at = State(Spot("", "", "", "", self.blank), dict(inputs), (), frozenset())
        recursive = self.reach(start, self.blank).recursive
        if recursive and self.limits.nodes >= Limits().nodes:
            raise SpaceError("the space is recursive", hint="give a budget of nodes, such as 40")
        drafts: dict[int, list[Edge]] = {}
        high = self.limits.nodes if recursive else EVERY
        for out, vertex in self.walk(start, at, x, 0, high):
            value = out.value
            if isinstance(value, Branches):
                value = dict(zip(value.names, value.values, strict=True))
            try:
                self.algebra.finish(value, Site("", 0, start))
            except Infeasible as error:
                self.note(error)
                continue
            if self.spent and (out.params, out.flops) != (self.limits.params, self.limits.flops):
                continue
            if out.nodes <= self.limits.nodes:
                drafts.setdefault(out.nodes, []).append((1.0, -1, 0, 0, 1, (vertex,)))
        return {n: Vertex(drafts[n]) for n in sorted(drafts)}


class Exact:
    """The derivations of a space that are valid under `algebra` and within `limits`.

    The algebra's values must be hashable and equal where they mean the same; ops in `layered` get
    other constructor arguments at each use. With `spent`, only derivations that cost exactly the
    limits of params and flops count. Raises: SpaceError when nothing fits, for recursion
    without a node budget, and for recursion that spends no node; TooLarge, a SpaceError, after
    `cap` steps of the sums (None: never).
    """

    kind: Literal["exact"] = "exact"

    def __init__(
        self,
        space: Space,
        algebra: Algebra,
        limits: Limits | None = None,
        *,
        layered: frozenset[str] = frozenset(),
        spent: bool = False,
        cap: int | None = None,
    ) -> None:
        self._grow(Whole(space, algebra, limits or Limits(), layered, spent, cap))

    def _grow(self, walk: Whole) -> None:
        self.space, self.limits = walk.space, walk.limits
        with deep():
            self.sizes = walk.roots()
        if not self.sizes:
            raise walk.refusal or SpaceError("no sentence of this space fits")
        self.root = Vertex([(1.0, -1, 0, 0, 1, (v,)) for v in self.sizes.values()])
        self._weigh: Callable[[float], float] = float
        self._counts: dict[Vertex, int] = {}
        self._logs: dict[Vertex, float] = {}
        self._wheels: dict[Vertex, list[float]] = {}

    @classmethod
    def of(cls, walk: Whole) -> "Exact":
        """The derivations that a walk finds. Raises: SpaceError as above."""
        made = cls.__new__(cls)
        made._grow(walk)
        return made

    def weighted(self, weigh: Callable[[float], float]) -> "Exact":
        """The same derivations, with `weigh` of each share in its place."""
        made = copy(self)
        made._weigh, made._logs, made._wheels = weigh, {}, {}
        return made

    # -- sums --------------------------------------------------------------------------------

    def log_mass(self) -> float:
        """The natural logarithm of the grammar's probability of what is valid and in budget."""
        return self._log(self.root)

    def counts(self) -> Mapping[int, int]:
        """The number of derivations of each size in nodes."""
        return {n: self._count(v) for n, v in self.sizes.items()}

    def entropy(self) -> float:
        """The entropy (nats) of the conditioned distribution over derivations."""
        means: dict[Vertex, float] = {}

        def one(vertex: Vertex) -> float:
            whole, total = self._log(vertex), 0.0
            for edge in vertex.edges:
                log_share = self._edge_log(edge)
                share = math.exp(log_share - whole)
                inner = sum(means[v] for v in edge[5])
                total += share * (inner + whole - log_share)
            return total

        return _fold(self.root, means, one)

    def ranges(self) -> Ranges:
        """The satisfiable range of params and FLOPs."""
        found: dict[Vertex, tuple[int, int, int, int]] = {}

        def one(vertex: Vertex) -> tuple[int, int, int, int]:
            rows = []
            for _, _, params, flops, times, below in vertex.edges:
                own = (params, params, flops, flops)
                parts = [found[v] for v in below]
                rows.append([o + times * sum(p[i] for p in parts) for i, o in enumerate(own)])
            low = [min(column) for column in zip(*rows, strict=True)]
            high = [max(column) for column in zip(*rows, strict=True)]
            return low[0], high[1], low[2], high[3]

        a, b, c, d = _fold(self.root, found, one)
        return Ranges((a, b), (c, d))

    def vertices(self) -> int:
        """The size of the forest."""
        return len(self._logs) if self._log(self.root) is not None else 0

    def _log(self, vertex: Vertex) -> float:
        def one(v: Vertex) -> float:
            logs = [self._edge_log(edge) for edge in v.edges]
            top = max(logs)
            return top + math.log(math.fsum(math.exp(x - top) for x in logs))

        return _fold(vertex, self._logs, one)

    def _edge_log(self, edge: Edge) -> float:
        return math.log(self._weigh(edge[0])) + math.fsum(self._logs[v] for v in edge[5])

    def _count(self, vertex: Vertex) -> int:
        def one(v: Vertex) -> int:
            return sum(math.prod(self._counts[c] for c in edge[5]) for edge in v.edges)

        return _fold(vertex, self._counts, one)

    # -- draws -------------------------------------------------------------------------------

    def sample(self, rng: random.Random) -> Drawn:
        """A draw from the grammar's own distribution, conditioned on validity and budget."""
        whole = self.log_mass()
        picks, log_prob = self._descend(lambda vertex: self._choose(vertex, rng))
        return Drawn(picks, log_prob - whole)

    def uniform(self, rng: random.Random, nodes: int | None = None) -> Drawn:
        """A derivation of this size (None: of any) with every one equally likely.

        Raises: SpaceError where no derivation has this size.
        """
        if nodes is not None and nodes not in self.sizes:
            sizes = ", ".join(map(str, list(self.sizes)[:20]))
            raise SpaceError(f"no derivation has {nodes} nodes", hint=f"sizes: {sizes}")
        start = self.root if nodes is None else self.sizes[nodes]
        total = self._count(start)

        def choose(vertex: Vertex) -> Edge:
            mark = rng.randrange(self._counts[vertex])
            for edge in vertex.edges:
                mark -= math.prod(self._counts[c] for c in edge[5])
                if mark < 0:
                    return edge
            raise AssertionError("counts of a vertex and of its edges differ")

        picks, _ = self._descend(choose, start)
        return Drawn(picks, -math.log(total))

    def best(self) -> Drawn:
        """The most probable derivation."""
        whole = self.log_mass()
        tops: dict[Vertex, float] = {}

        def weigh(edge: Edge) -> float:
            return math.log(self._weigh(edge[0])) + sum(tops[v] for v in edge[5])

        _fold(self.root, tops, lambda vertex: max(map(weigh, vertex.edges)))
        picks, log_prob = self._descend(lambda vertex: max(vertex.edges, key=weigh))
        return Drawn(picks, log_prob - whole)

    def priced(self, rng: random.Random) -> tuple[Drawn, int, int, int]:
        """A draw as from `sample`, and its nodes, params and flops."""
        drawn, total = self.log_mass(), [0, 0]
        sizes = list(self.sizes)
        shares = [math.exp(self._log(self.sizes[n]) - drawn) for n in sizes]
        size = rng.choices(sizes, shares)[0]
        picks: list[int] = []
        log_prob = 0.0
        stack = [(self.sizes[size], 1)]
        while stack:
            vertex, times = stack.pop()
            edge = self._choose(vertex, rng)
            log_prob += math.log(self._weigh(edge[0]))
            if edge[1] >= 0:
                picks.append(edge[1])
            total[0] += times * edge[2]
            total[1] += times * edge[3]
            stack.extend((v, times * edge[4]) for v in reversed(edge[5]))
        return Drawn(tuple(picks), log_prob - drawn), size, total[0], total[1]

    def _descend(
        self, choose: Callable[[Vertex], Edge], start: Vertex | None = None
    ) -> tuple[tuple[int, ...], float]:
        """The picks of one way down, in the order of the walk, and the log of their weight."""
        picks: list[int] = []
        log_prob = 0.0
        stack = [start or self.root]
        while stack:
            edge = choose(stack.pop())
            log_prob += math.log(self._weigh(edge[0]))
            if edge[1] >= 0:
                picks.append(edge[1])
            stack.extend(reversed(edge[5]))
        return tuple(picks), log_prob

    def _choose(self, vertex: Vertex, rng: random.Random) -> Edge:
        wheel = self._wheels.get(vertex)
        if wheel is None:
            top = self._logs[vertex]
            shares = [math.exp(self._edge_log(e) - top) for e in vertex.edges]
            wheel = self._wheels[vertex] = list(accumulate(shares))
        return rng.choices(vertex.edges, cum_weights=wheel)[0]

    def replay(self, drawn: Drawn, algebra: Algebra, limits: Limits | None = None) -> Derivation:
        """The derivation of a draw under the algebra that builds it; it never meets a refusal.

        `limits` replaces those of the sums, where these were in units of their own.
        """
        return replay(self.space, drawn.picks, algebra, limits or self.limits)


def replay(space: Space, picks: Sequence[int], algebra: Algebra, limits: Limits) -> Derivation:
    """The derivation of a draw; rules may nest as deep as they like."""
    chooser = Ordered(picks)
    derivation = next(derivations(space, chooser, algebra, replace(limits, depth=100_000)))
    assert derivation.refusals == 0
    assert chooser.taken == len(picks)
    return derivation


def _fold(root: Vertex, known: dict[Vertex, T], one: Callable[[Vertex], T]) -> T:
    """`one` of every vertex below `root`, children first, each once."""
    stack = [root]
    while stack:
        vertex = stack[-1]
        if vertex in known:
            stack.pop()
            continue
        missing = [c for edge in vertex.edges for c in edge[5] if c not in known]
        if missing:
            stack.extend(missing)
        else:
            known[vertex] = one(vertex)
            stack.pop()
    return known[root]
