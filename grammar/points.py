"""Points: where a derivation has chosen, and of which choice of the text each is an instance.

A trace alone cannot tell: its addresses lead through rules, copies and arguments. So the trace is
walked again, with a walk that notes which choice it stands at.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from grammar.ast import Choice, Expr, Range, Space, deep
from grammar.derive import GaveUp, Walk
from grammar.domain import Domain, Scalar
from grammar.errors import SpaceError
from grammar.parts import Place
from grammar.values import COUNTS
from grammar.walk import Algebra, Chooser, Derivation, Limits, Replay

Kind: TypeAlias = Literal["part", "count", "value"]


@dataclass(frozen=True, slots=True)
class Point:
    """One choice of a derivation. Equal `place`: instances of one choice of the text.

    `weights` are those of its alternatives; `kind` says what they are: parts of an architecture,
    numbers of copies, or values of parameters.
    """

    address: str
    place: int
    kind: Kind
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Parent:
    """A derivation with its points, in the order of the walk; those without another way out are
    left out. Places are identities of the space's nodes: compare them within one space only."""

    space: Space
    derivation: Derivation
    points: tuple[Point, ...]

    @property
    def trace(self) -> Mapping[str, int]:
        return self.derivation.trace


class _Watch(Walk):
    """A walk that notes its points."""

    def __init__(self, space: Space, chooser: Chooser, algebra: Algebra, limits: Limits) -> None:
        super().__init__(space, chooser, algebra, limits)
        self.places: dict[str, int] = {}
        self.kinds: dict[str, Kind] = {}
        self.shares: dict[str, tuple[float, ...]] = {}

    def pick(self, address: str, choice: Choice) -> Iterator[int]:
        self.places[address] = id(choice)
        yield from super().pick(address, choice)

    def values(self, expr: Expr, domain: Domain, place: Place) -> Iterator[Scalar]:
        if isinstance(expr, Choice | Range):
            self.places[place.address] = id(expr)
            kind: Kind = "count" if domain is COUNTS else "value"
            if self.kinds.get(place.address) != "count":  # one `let` may be both
                self.kinds[place.address] = kind
        yield from super().values(expr, domain, place)

    def _pick(self, address: str, shares: tuple[float, ...]) -> Iterator[int]:
        self.shares[address] = shares
        yield from super()._pick(address, shares)

    def points(self, trace: Mapping[str, int]) -> tuple[Point, ...]:
        """The points of a finished derivation."""
        return tuple(
            Point(a, self.places[a], self.kinds.get(a, "part"), self.shares[a])
            for a in trace
            if len(self.shares[a]) > 1
        )


def parent(
    space: Space, trace: Mapping[str, int], algebra: Algebra, limits: Limits, fresh: Chooser
) -> Parent:
    """The derivation of a trace, walked again; `fresh` chooses where the trace no longer fits.

    Raises: SpaceError when nothing fits.
    """
    watch = _Watch(space, Replay(trace, fresh), algebra, limits)
    with deep():
        try:
            found = next(watch.run(), None)
        except GaveUp:
            found = None
    if found is None:
        raise watch.furthest[1] if watch.furthest else SpaceError("the space has no sentence")
    return Parent(space, found, watch.points(found.trace))


def by_place(points: Sequence[Point]) -> dict[int, list[Point]]:
    """Points grouped by the choice of the text, in the order of the walk."""
    found: dict[int, list[Point]] = {}
    for point in points:
        found.setdefault(point.place, []).append(point)
    return found
