"""All derivations of one architecture: with sizes where they end by themselves, else without.

In a recursive space every part is derived once from each place, whatever its size
(`grammar/tabled.py`), and identities are counted afterwards (`grammar/graded.py`): time grows with
the square to the cube of the longest run of nodes. Where the space has neither names nor shared
modules, places that are alike are one (`einspace/quotient.py`), and symmetries do not arise. Where
recursion goes through rule arguments or choices shared by copies, sizes are summed as in drawing.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Protocol

from einspace.frame import Frame
from einspace.places import Places
from einspace.plain import copies_alike
from grammar.errors import SpaceError
from grammar.exact import Exact
from grammar.exact_ops import TooLarge
from grammar.exact_state import Vertex
from grammar.graded import BEST, COUNT, LOG, Graded, least, log_sum
from grammar.tabled import Tabled
from grammar.walk import Limits

CAP = 5_000_000  # steps of the sums over one architecture
WORK = 100_000_000  # products of coefficients; some 20 CPU-seconds


class Derivations(Protocol):
    """All derivations of one architecture, and how many of them are one by symmetry."""

    symmetries: int

    def log_mass(self, nodes: int) -> float:
        """The logarithm of the grammar's probability of those with at most so many nodes."""

    def count(self, nodes: int) -> int:
        """How many have at most so many nodes."""

    def best(self) -> tuple[int, ...]:
        """The picks of the most probable one with the fewest identities."""


class Flat:
    """The sums of `Exact`, within the budget of nodes that they are made with."""

    def __init__(self, frame: Frame, places: Places, symmetries: int, nodes: int) -> None:
        self.symmetries = symmetries
        limits = Limits(nodes, places.modules, places.size)
        self.exact = Exact(frame.space, places, limits, spent=True, cap=CAP)

    def log_mass(self, nodes: int) -> float:
        return self.exact.log_mass()

    def count(self, nodes: int) -> int:
        return sum(self.exact.counts().values())

    def best(self) -> tuple[int, ...]:
        return self.exact.best().picks


class Deep:
    """With recursion: all derivations whatever their number of identities, then sums by it."""

    def __init__(self, frame: Frame, places: Places, symmetries: int) -> None:
        self.symmetries, self.size = symmetries, places.size
        alike = places.classes is not None
        limits = Limits(params=None if alike else places.modules, flops=places.size)
        walk = Tabled(
            frame.space,
            places,
            limits,
            fits=places.fits if alike else None,
            alike=alike and copies_alike(frame.space, places.table),
            cap=CAP,
        )
        self.root = walk.root(places.backwards() if alike else [])

    @cached_property
    def low(self) -> Mapping[Vertex, int]:
        return least(self.root)

    def _most(self, nodes: int) -> int:
        most = nodes - self.size
        slack = most - self.low[self.root]
        if slack < 0:
            raise SpaceError(
                f"no derivation of this architecture has {nodes} nodes or fewer",
                hint=f"give --max-nodes {self.size + self.low[self.root]} or more",
            )
        if len(self.low) * slack * slack > WORK:
            raise TooLarge(
                f"the ways to put up to {slack} identities into this architecture are too many",
                hint="give a budget of nodes nearer to its own",
            )
        return most

    def log_mass(self, nodes: int) -> float:
        return log_sum(list(Graded(self.root, self.low, self._most(nodes), LOG).row().values()))

    def count(self, nodes: int) -> int:
        return sum(Graded(self.root, self.low, self._most(nodes), COUNT).row().values())

    def best(self) -> tuple[int, ...]:
        return Graded(self.root, self.low, self.low[self.root], BEST).picks(self.low[self.root])
