"""A trace of an old space carried over to an edited one: what is still there is kept.

Options are known by their text, less what may be chosen inside of it, and not by their number, so
alternatives may be added, removed, moved and weighted anew. What a choice of the new space has no
counterpart for in the trace is drawn, and so is everything below an option that is gone. Parts of
a sequence are known by their place: one put before others shifts them, and they are drawn anew.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from grammar.ast import Choice, Expr, Name, Space, deep
from grammar.derive import GaveUp, Walk
from grammar.domain import Domain, Scalar
from grammar.errors import SpaceError
from grammar.learn import sites
from grammar.parts import Place
from grammar.show import show
from grammar.walk import Algebra, Chooser, Derivation, Limits, Sample
from grammar.writeout import rebuilt

HOLE = Name("_")


@dataclass(frozen=True, slots=True)
class Migrated:
    """The derivation in the new space; the addresses (of the new space) whose option was kept, and
    those that were drawn."""

    derivation: Derivation
    kept: tuple[str, ...]
    drawn: tuple[str, ...]


def _skeleton(expr: Expr) -> Expr:
    """What an option is, whatever may be chosen inside of it."""
    found = rebuilt(expr, lambda before, after: HOLE if isinstance(before, Choice) else after)
    assert isinstance(found, Expr)
    return found


@dataclass(slots=True)
class _Names:
    """Addresses with the texts of options in place of their numbers."""

    choices: dict[str, Choice] = field(default_factory=dict)

    def text(self, address: str, option: int) -> str:
        choice = self.choices.get(address)
        return str(option) if choice is None else show(_skeleton(choice.alts[option].body))

    def name(self, address: str, trace: Mapping[str, int]) -> str:
        steps = address.split("/")
        parts = []
        for i, step in enumerate(steps):
            above = "/".join(steps[:i])
            taken = step.startswith("|") and above in trace
            parts.append("|" + self.text(above, trace[above]) if taken else step)
        return "/".join(parts)


class _Told(Walk):
    """A walk that tells its chooser's names which choice stands at an address."""

    def __init__(
        self, space: Space, chooser: Chooser, algebra: Algebra, limits: Limits, names: _Names
    ) -> None:
        super().__init__(space, chooser, algebra, limits)
        self.names = names

    def pick(self, address: str, choice: Choice) -> Iterator[int]:
        self.names.choices[address] = choice
        yield from super().pick(address, choice)

    def values(self, expr: Expr, domain: Domain, place: Place) -> Iterator[Scalar]:
        if isinstance(expr, Choice):
            self.names.choices[place.address] = expr
        yield from super().values(expr, domain, place)


@dataclass(slots=True)
class _Old:
    """Follows a trace."""

    trace: Mapping[str, int]

    def pick(self, address: str, options: Sequence[int], weights: Sequence[float]) -> int:
        known = self.trace.get(address)
        if known is None or known not in options:
            raise SpaceError(
                f"the trace does not lead through its own space: at {address!r} it takes {known}",
                hint="give the text of the space that the trace was drawn from",
            )
        return known


@dataclass(slots=True)
class _New:
    """Takes the option of the same text at the place of the same name, else draws."""

    wanted: Mapping[str, str]
    names: _Names
    fresh: Sample
    taken: dict[str, int] = field(default_factory=dict)

    def pick(self, address: str, options: Sequence[int], weights: Sequence[float]) -> int:
        text = self.wanted.get(self.names.name(address, self.taken))
        same = [o for o in options if self.names.text(address, o) == text]
        found = same[0] if same else self.fresh.pick(address, options, weights)
        self.taken[address] = found
        return found


def migrate(
    trace: Mapping[str, int],
    old: Space,
    new: Space,
    algebra: Algebra,
    limits: Limits,
    rng: random.Random,
) -> Migrated:
    """The derivation of the new space that keeps what it can of a trace of the old one.

    Raises: SpaceError where the trace is not one of the old space, or nothing of the new one fits.
    """
    was = _Names()
    _run(_Told(_explicit(old, algebra), _Old(trace), algebra, Limits(depth=100_000), was))
    wanted = {was.name(a, trace): was.text(a, o) for a, o in trace.items()}
    names = _Names()
    chooser = _New(wanted, names, Sample(rng))
    found = _run(_Told(_explicit(new, algebra), chooser, algebra, limits, names))
    kept: list[str] = []
    drawn: list[str] = []
    for address, option in found.trace.items():
        same = wanted.get(names.name(address, found.trace)) == names.text(address, option)
        (kept if same else drawn).append(address)
    return Migrated(found, tuple(kept), tuple(drawn))


def _explicit(space: Space, algebra: Algebra) -> Space:
    """Ranges written out, so that their points have texts; traces stay what they are."""
    return sites(space, algebra.signatures).space


def _run(walk: Walk) -> Derivation:
    with deep():
        try:
            found = next(walk.run(), None)
        except GaveUp:
            found = None
    if found is None:
        raise walk.furthest[1] if walk.furthest else SpaceError("the space has no sentence")
    return found
