"""Weights learned from architectures: maximum a posteriori under a Dirichlet prior.

Every choice c of the text has one weight w[c, i] an alternative, however many contexts it is
reached in. With n[c, i] the times it was taken, v the space's own weights and s the strength (how
many observations the own weights are worth at every choice)

    w[c, i] = (n[c, i] + s v[c, i]) / (sum_j n[c, j] + s)

maximises  sum_architectures log P(architecture) + s sum_{c, i} v[c, i] log w[c, i].

n is counted where the derivation is known: what `fix let same tied` share is one choice, made once.
An architecture known by its text alone has many derivations; then n is the expected number given
the text, by inside and outside sums over the forest of its derivations, and the two steps are
repeated (EM), which never lowers the objective. P is the grammar's own probability, before any
conditioning on validity and budget.

Source: Baker 1979 (inside-outside); Dempster, Laird & Rubin 1977 (EM, section 1.2 with a prior).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from grammar.ast import Alt, Choice, Decl, Name, Node, Number, Space, children, deep
from grammar.domain import Signature
from grammar.errors import SpaceError
from grammar.exact import Whole
from grammar.exact_forms import Inside
from grammar.exact_state import Vertex
from grammar.points import parent
from grammar.radius import radii
from grammar.walk import Algebra, Limits
from grammar.weights import weights
from grammar.writeout import rebuilt, written_out

Table: TypeAlias = tuple[float, ...]  # a number for each alternative of `Sites`
DIGITS = 6  # of a weight that is written


@dataclass(frozen=True, slots=True)
class Sites:
    """A space with its ranges written out, and the places of its weights.

    The alternatives of `choices[k]` are the places `starts[k]` to `starts[k + 1]` of a `Table`;
    `own` are the weights that the space gives. `index` maps the identity of a choice to k.
    """

    space: Space
    choices: tuple[Choice, ...]
    starts: tuple[int, ...]
    own: Table
    index: Mapping[int, int]


def sites(space: Space, signatures: Mapping[str, Signature]) -> Sites:
    """The places of a space's weights. Addresses and traces of `space` hold in it unchanged."""
    with deep():
        explicit = written_out(space, signatures)
        choices = tuple(c for c in _nodes(explicit) if isinstance(c, Choice) and len(c.alts) > 1)
    lets = {d.name: d.body for d in explicit.decls if d.kind == "let"}
    starts = [0]
    own: list[float] = []
    for choice in choices:
        own += weights(choice, lets)
        starts.append(len(own))
    index = {id(choice): k for k, choice in enumerate(choices)}
    return Sites(explicit, choices, tuple(starts), tuple(own), index)


def _nodes(space: Space) -> list[Node]:
    found: list[Node] = []
    stack: list[Node] = [space]
    while stack:
        node = stack.pop()
        found.append(node)
        stack.extend(reversed(list(children(node))))
    return found


# -- counts ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Follow:
    """The chooser that only follows a trace."""

    trace: Mapping[str, int]

    def pick(self, address: str, options: Sequence[int], weights: Sequence[float]) -> int:
        known = self.trace.get(address)
        if known is None or known not in options:
            raise SpaceError(
                f"the trace does not lead through this space: at {address!r} it takes {known}",
                hint="a trace belongs to the space and task that it was drawn from",
            )
        return known


def counted(sites: Sites, trace: Mapping[str, int], algebra: Algebra) -> Table:
    """How often a derivation takes each alternative.

    Raises: SpaceError for a trace of another space.
    """
    found = parent(sites.space, trace, algebra, Limits(depth=100_000), _Follow(trace))
    table = [0.0] * len(sites.own)
    for point in found.points:
        k = sites.index.get(point.place)
        if k is not None:
            table[sites.starts[k] + found.trace[point.address]] += 1.0
    return tuple(table)


def summed(tables: Sequence[Table], size: int) -> Table:
    """The sum of tables; of none, zeros."""
    return tuple(math.fsum(column) for column in zip(*tables, strict=True)) or (0.0,) * size


# -- forests ---------------------------------------------------------------------------------------


class Share(float):
    """A weight that knows its place."""

    __slots__ = ("place",)
    place: int


class Marked(Whole):
    """The exact walk whose shares know their places."""

    def __init__(
        self,
        sites: Sites,
        algebra: Algebra,
        limits: Limits,
        layered: frozenset[str],
        spent: bool,
    ) -> None:
        Inside.__init__(self, sites.space, algebra, limits)
        self.sites, self.spent, self.layered = sites, spent, layered
        self._memo, self._applied = {}, {}

    def shares(self, choice: Choice) -> tuple[float, ...]:
        found = super().shares(choice)
        k = self.sites.index.get(id(choice))
        if k is not None and not isinstance(found[0], Share):
            found = tuple(map(Share, found))
            for i, share in enumerate(found):
                share.place = self.sites.starts[k] + i  # type: ignore[attr-defined]  # a Share
            self._shares[id(choice)] = found
        return found


@dataclass(frozen=True, slots=True)
class Forest:
    """Derivations, packed. Vertices stand after those below them, the last one is the root; each
    is its edges: (place of the alternative taken here or -1, log of what else is taken, below)."""

    vertices: tuple[tuple[tuple[int, float, tuple[int, ...]], ...], ...]


def forest(
    sites: Sites,
    algebra: Algebra,
    limits: Limits,
    *,
    layered: frozenset[str] = frozenset(),
    spent: bool = False,
) -> Forest:
    """All derivations that `Exact` of these arguments holds. Raises: SpaceError as that does."""
    walk = Marked(sites, algebra, limits, layered, spent)
    with deep():
        roots = walk.roots()
    if not roots:
        raise walk.refusal or SpaceError("no sentence of this space fits")
    order: dict[Vertex, int] = {}
    rows: list[tuple[tuple[int, float, tuple[int, ...]], ...]] = []
    stack = [Vertex([(1.0, -1, 0, 0, 1, (v,)) for v in roots.values()])]
    while stack:
        vertex = stack[-1]
        missing = [c for edge in vertex.edges for c in edge[5] if c not in order]
        if missing and vertex not in order:
            stack.extend(missing)
            continue
        stack.pop()
        if vertex not in order:
            order[vertex] = len(rows)
            rows.append(tuple(_edge(e[0], tuple(order[c] for c in e[5])) for e in vertex.edges))
    return Forest(tuple(rows))


def _edge(share: float, below: tuple[int, ...]) -> tuple[int, float, tuple[int, ...]]:
    if isinstance(share, Share):
        return share.place, 0.0, below
    return -1, math.log(share), below


def expected(forest: Forest, table: Table) -> tuple[float, Table]:
    """Under these weights: log of the probability of all derivations, and how often one of them
    takes each alternative in the mean."""
    logs = [math.log(w) for w in table]
    inside: list[float] = []
    shares: list[list[float]] = []
    for edges in forest.vertices:
        ways = [
            (logs[place] if place >= 0 else fixed) + math.fsum(inside[c] for c in below)
            for place, fixed, below in edges
        ]
        top = max(ways)
        whole = top + math.log(math.fsum(math.exp(way - top) for way in ways))
        inside.append(whole)
        shares.append([math.exp(way - whole) for way in ways])
    counts = [0.0] * len(table)
    outside = [0.0] * len(inside)
    outside[-1] = 1.0
    for v in range(len(inside) - 1, -1, -1):
        for (place, _, below), share in zip(forest.vertices[v], shares[v], strict=True):
            mean = outside[v] * share
            if place >= 0:
                counts[place] += mean
            for child in below:
                outside[child] += mean
    return inside[-1], tuple(counts)


# -- weights ---------------------------------------------------------------------------------------


def best_weights(sites: Sites, counts: Table, strength: float) -> Table:
    """The weights that maximise the objective for these counts; `strength` is positive."""
    table: list[float] = []
    for start, end in zip(sites.starts, sites.starts[1:], strict=False):
        total = math.fsum(counts[start:end]) + strength
        table += [(counts[i] + strength * sites.own[i]) / total for i in range(start, end)]
    return tuple(table)


@dataclass(frozen=True, slots=True)
class Fit:
    """Learned weights, the counts behind them, and the objective (nats) before each round."""

    weights: Table
    counts: Table
    objective: tuple[float, ...]


def fit(
    sites: Sites,
    known: Table,
    hidden: Sequence[tuple[Forest, float]] = (),
    *,
    strength: float = 1.0,
    tolerance: float = 1e-9,
    rounds: int = 1_000,
) -> Fit:
    """Weights from counts of known derivations, and from forests with how often each was seen.

    Rounds end when the objective rises by less than `tolerance` nats.
    Raises: SpaceError for a strength that is not positive.
    """
    if not (math.isfinite(strength) and strength > 0):
        raise SpaceError(
            f"the strength {strength:g} is not positive",
            hint="it counts observations: 1 trusts the data, 100 the space's own weights",
        )
    table, objective = sites.own, []
    for _ in range(rounds):
        total, counts = _step(sites, known, hidden, table, strength)
        objective.append(total)
        table = best_weights(sites, counts, strength)
        if not hidden or (len(objective) > 1 and total - objective[-2] < tolerance):
            break
    return Fit(table, counts, tuple(objective))


def _step(
    sites: Sites,
    known: Table,
    hidden: Sequence[tuple[Forest, float]],
    table: Table,
    strength: float,
) -> tuple[float, Table]:
    """The objective at these weights, and the counts to be expected under them."""
    parts = [
        (n + strength * v) * math.log(w) for n, v, w in zip(known, sites.own, table, strict=True)
    ]
    counts = list(known)
    for one, times in hidden:
        log_prob, found = expected(one, table)
        parts.append(times * log_prob)
        for place, mean in enumerate(found):
            counts[place] += times * mean
    return math.fsum(parts), tuple(counts)


# -- back to text ----------------------------------------------------------------------------------


def tamed(sites: Sites, table: Table) -> tuple[Table, float]:
    """Weights under which derivations end: moved towards the space's own ones as far as that
    takes, by halves; and how much of the learned weights is left, 1 for all."""
    share = 1.0
    while share > 1e-6:
        mixed = tuple(share * w + (1 - share) * v for w, v in zip(table, sites.own, strict=True))
        if _ends(weighted(sites, mixed)):
            return mixed, share
        share /= 2
    return sites.own, 0.0


def _ends(space: Space) -> bool:
    rules = {d.name: d for d in space.decls}
    lets = {d.name: d.body for d in space.decls if d.kind == "let"}
    start = space.final or next(d.body for d in space.decls if d.kind == "rule" and not d.params)
    return radii(rules, lets, start)[0] < 1 - 1e-9


def weighted(sites: Sites, table: Table) -> Space:
    """The space with these weights written down, to `DIGITS` digits.

    A choice that keeps its own weights keeps their text; a `let` that was a weight and no longer
    is goes.
    """
    texts: dict[int, tuple[Number, ...]] = {}
    for choice, start, end in zip(sites.choices, sites.starts, sites.starts[1:], strict=False):
        new = table[start:end]
        if any(abs(w - v) > 1e-12 for w, v in zip(new, sites.own[start:end], strict=True)):
            texts[id(choice)] = tuple(Number(float(f"{w:.{DIGITS}g}")) for w in new)

    def put(old: Node, new: Node) -> Node:
        numbers = texts.get(id(old))
        if numbers is None:
            return new
        assert isinstance(new, Choice)
        pairs = zip(new.alts, numbers, strict=True)
        return replace(new, alts=tuple(replace(alt, weight=n) for alt, n in pairs))

    with deep():
        space = rebuilt(sites.space, put)
    assert isinstance(space, Space)
    return _without_idle(space, sites.space)


def _without_idle(space: Space, before: Space) -> Space:
    used = {n.id for n in _nodes(space) if isinstance(n, Name)}
    was = {n.weight.id for n in _nodes(before) if isinstance(n, Alt) and isinstance(n.weight, Name)}

    def stays(decl: Decl) -> bool:
        return decl.kind != "let" or decl.name in used or decl.name not in was

    return replace(space, decls=tuple(d for d in space.decls if stays(d)))
