"""Mutation and crossover: a new derivation that shares all but one part with its parents.

    subtree    the part below one choice is drawn anew, with another alternative at its root
    parameter  one value takes another of its values; everything else stays
    hoist      a part becomes one of its own descendants that is an instance of the same choice
    crossover  a part becomes a part of another derivation, an instance of the same choice

The genotype is the trace, so a part is moved by rewriting addresses, and the walk finds out
whether it fits there. Where it does not, `subtree` and `crossover` let the walk repair the
choices around it, while `parameter` and `hoist`, which promise that nothing else changes, give up
and try another point.

*Fair over repeated parts.* The choice of the text is drawn first and then one of its instances,
both uniformly. Drawn by address instead, a choice inside `* 12` would take twelve of thirteen
mutations, and a recursive rule all of them. What `same`, `fix`, `tied` and `let` share is one
address however often it is reached, and counts once.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from grammar.ast import Space
from grammar.derive import derive
from grammar.errors import SpaceError
from grammar.normal import Named, named
from grammar.parts import shared
from grammar.points import Parent, Point, by_place, parent
from grammar.walk import Algebra, Chooser, Derivation, Limits, Replay, Sample

Operator: TypeAlias = Literal["subtree", "parameter", "hoist", "crossover"]
PROPOSALS = 12  # children that an operator may propose until one differs from its parents
PICKS = 300  # choices that the walk may make for a child beyond twice those of its parents
REMEMBERED = 64  # parents


class Unfit(Exception):
    """A choice that an operator keeps does not fit any more, or repairing takes too long."""


def below(address: str, root: str) -> bool:
    """Whether a choice lies in the subtree of the choice at `root`."""
    return address == root or address.startswith((root + "/", root + "[", root + ":"))


def part(trace: Mapping[str, int], root: str) -> dict[str, int]:
    """The choices at and below `root`, by their addresses from there."""
    return {a[len(root) :]: i for a, i in trace.items() if below(a, root)}


def moved(trace: Mapping[str, int], source: str, target: str) -> dict[str, int]:
    """The part below `source` under its addresses below `target`; what copies share moves, too."""
    pairs = [(source, target), (shared(source), shared(target))]
    pairs += [("let:" + s, "let:" + t) for s, t in pairs]
    found: dict[str, int] = {}
    for old, new in reversed(pairs):
        found.update({new + rest: i for rest, i in part(trace, old).items()})
    return found


@dataclass(slots=True)
class Mutation:
    """Replays `trace`, but draws afresh at and below `root`, where the old option comes last."""

    trace: Mapping[str, int]
    root: str
    rng: random.Random
    _replay: Replay = field(init=False)

    def __post_init__(self) -> None:
        kept = {a: i for a, i in self.trace.items() if not below(a, self.root)}
        self._replay = Replay(kept, Sample(self.rng))

    def pick(self, address: str, options: Sequence[int], weights: Sequence[float]) -> int:
        old = self.trace.get(address)
        if address == self.root and old in options and len(options) > 1:
            rest = [(o, w) for o, w in zip(options, weights, strict=True) if o != old]
            return self.rng.choices([o for o, _ in rest], [w for _, w in rest])[0]
        return self._replay.pick(address, options, weights)


@dataclass(frozen=True, slots=True)
class Strict:
    """Follows a trace and asks `fresh` beside it; where the trace does not fit: `Unfit`."""

    trace: Mapping[str, int]
    fresh: Chooser

    def pick(self, address: str, options: Sequence[int], weights: Sequence[float]) -> int:
        known = self.trace.get(address)
        if known is None:
            return self.fresh.pick(address, options, weights)
        if known not in options:
            raise Unfit
        return known


@dataclass(slots=True)
class Bounded:
    """`chooser` for as many picks: a part that fits nowhere is sooner replaced than repaired."""

    chooser: Chooser
    left: int

    def pick(self, address: str, options: Sequence[int], weights: Sequence[float]) -> int:
        self.left -= 1
        if self.left < 0:
            raise Unfit
        return self.chooser.pick(address, options, weights)


def fair(points: Sequence[Point], rng: random.Random) -> Point:
    """One of the points: first the choice of the text, then its instance."""
    return rng.choice(rng.choice(list(by_place(points).values())))


# -- operators -------------------------------------------------------------------------------------

# What an operator proposes: a chooser, and whether the child that it leads to will do.
Proposal: TypeAlias = tuple[Chooser, Callable[[Derivation], bool]]


def subtrees(first: Parent, rng: random.Random) -> Iterator[Proposal]:
    """Redraws below parts and counts; below values only where there is nothing else."""
    points = [p for p in first.points if p.kind != "value"] or first.points
    while points:
        yield Mutation(first.trace, fair(points, rng).address, rng), lambda child: True


def parameters(first: Parent, rng: random.Random) -> Iterator[Proposal]:
    """Redraws values; a point's values are tried in the order of a weighted draw."""
    points = [p for p in first.points if p.kind == "value"]
    while points:
        point = fair(points, rng)
        points.remove(point)
        outside = {a: i for a, i in first.trace.items() if not below(a, point.address)}
        left = [i for i in range(len(point.weights)) if i != first.trace[point.address]]

        def kept(
            child: Derivation, root: str = point.address, rest: Mapping[str, int] = outside
        ) -> bool:
            return {a: i for a, i in child.trace.items() if not below(a, root)} == rest

        while left:
            option = rng.choices(left, [point.weights[i] for i in left])[0]
            left.remove(option)
            yield Strict({**outside, point.address: option}, Sample(rng)), kept


def hoists(first: Parent, rng: random.Random) -> Iterator[Proposal]:
    """Puts descendants in the place of their ancestors, each pair once."""
    pairs: dict[int, list[tuple[str, str]]] = {}
    places = {p.address: p.place for p in first.points}
    for address, place in places.items():
        for cut in re.finditer(r"[/\[:]", address):
            if places.get(root := address[: cut.start()]) == place:
                pairs.setdefault(place, []).append((root, address))
    while pairs:
        place = rng.choice(list(pairs))
        root, source = pairs[place].pop(rng.randrange(len(pairs[place])))
        if not pairs[place]:
            del pairs[place]
        trace = {a: i for a, i in first.trace.items() if not below(a, root)}
        trace.update(moved(first.trace, source, root))
        yield Strict(trace, Sample(rng)), lambda child: child.nodes < first.derivation.nodes


def crossings(first: Parent, second: Parent, rng: random.Random) -> Iterator[Proposal]:
    """Puts parts of `second` in the place of different parts of `first`."""
    theirs = by_place(second.points)
    points = [p for p in first.points if p.place in theirs]
    known = {a: i for a, i in second.trace.items() if a.startswith(("let:", "fix:"))}
    for _ in range(4 * PROPOSALS if points else 0):
        target = fair(points, rng)
        source = rng.choice(theirs[target.place])
        if part(first.trace, target.address) == part(second.trace, source.address):
            continue
        outside = {a: i for a, i in first.trace.items() if not below(a, target.address)}
        trace = {**known, **outside, **moved(second.trace, source.address, target.address)}
        yield Replay(trace, Sample(rng)), lambda child: True


@dataclass(slots=True)
class _Noted:
    """`Sample` that notes whether it was asked."""

    rng: random.Random
    asked: bool = False

    def pick(self, address: str, options: Sequence[int], weights: Sequence[float]) -> int:
        self.asked = True
        return Sample(self.rng).pick(address, options, weights)


# Parents of one space, algebra and limits with their ids, by trace.
Parents: TypeAlias = MutableMapping[tuple[tuple[str, int], ...], tuple[Parent, str]]


def _walked(
    space: Space,
    trace: Mapping[str, int],
    algebra: Algebra,
    limits: Limits,
    rng: random.Random,
    memory: Parents,
) -> tuple[Parent, str]:
    """The parent and its id; remembered where the trace alone decides, nothing drawn."""
    key = tuple(trace.items())
    if (known := memory.get(key)) is not None:
        return known
    fresh = _Noted(rng)
    made = parent(space, trace, algebra, limits, fresh)
    found = made, named(made.derivation.closed, algebra.signatures).hash
    if not fresh.asked:
        while len(memory) >= REMEMBERED:
            del memory[next(iter(memory))]
        memory[key] = found
    return found


def offspring(
    space: Space,
    operator: Operator,
    traces: Sequence[Mapping[str, int]],
    algebra: Algebra,
    limits: Limits,
    rng: random.Random,
    memory: Parents | None = None,
) -> tuple[Derivation, Named, Operator]:
    """A child of one parent (of two for `crossover`), its name and the operator that made it.

    Of up to `PROPOSALS` proposals the first is taken whose id is no parent's. An operator that
    finds none, as `hoist` where no rule meets itself, leaves the work to `subtree`; where that
    finds none, either, the child is the parent. `memory` spares parents that breed often the walk;
    it belongs to one space, algebra and limits, and changes no child.

    Raises: SpaceError when nothing fits any more.
    """
    memory = {} if memory is None else memory
    walked = [_walked(space, trace, algebra, limits, rng, memory) for trace in traces]
    parents, known = [p for p, _ in walked], {hash_ for _, hash_ in walked}
    first = parents[0]
    proposals: dict[Operator, Iterator[Proposal]] = {"subtree": subtrees(first, rng)}
    if operator == "parameter":
        proposals = {operator: parameters(first, rng), **proposals}
    elif operator == "hoist":
        proposals = {operator: hoists(first, rng), **proposals}
    elif operator == "crossover":
        proposals = {operator: crossings(first, parents[1], rng), **proposals}
    for name, found in proposals.items():
        for _, (chooser, will_do) in zip(range(PROPOSALS), found, strict=False):
            bounded = Bounded(chooser, PICKS + 2 * max(len(p.trace) for p in parents))
            try:
                child, _ = derive(space, bounded, algebra, limits, tries=1)
            except (Unfit, SpaceError):
                continue
            if will_do(child):
                form = named(child.closed, algebra.signatures)
                if form.hash not in known:
                    return child, form, name
    return first.derivation, named(first.derivation.closed, algebra.signatures), "subtree"
