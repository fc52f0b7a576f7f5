"""Draws under other weights than a space's own, from what was built for its own.

The forest of all derivations does not depend on weights: it is built once with shares that know
their places, and summed anew for each table of weights. A sequential proposer keeps its guides,
which are sums under the space's own weights, and takes its steps by the new ones; what the guides
get wrong is in the weights of its proposals. A pool of them sets the bound of `grammar/accept.py`,
after a first one has told how sizes are spread now.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Protocol

from grammar.accept import Accept, Proposed
from grammar.estimate import FEW, Proposer, Relaxed
from grammar.exact import Exact
from grammar.learn import Marked, Share, Sites, Table
from grammar.sequential import Sequential
from grammar.walk import Algebra, Limits

POOL = 100


class Taught(Protocol):
    """Draws under other weights."""

    def draw(self, rng: random.Random) -> tuple[int, ...]:
        """The picks of a derivation that is valid and within budget. Raises: SpaceError."""


class Summed:
    """Draws from a forest, exact under a table of weights; those over `limits` are dropped, which
    leaves exact draws from what is within."""

    def __init__(
        self, marked: Exact, table: Table, algebra: Algebra, limits: Limits | None
    ) -> None:
        self.exact = marked.weighted(lambda share: weight(share, table))
        self.relaxed = limits and Relaxed(self.exact, algebra, limits)

    def draw(self, rng: random.Random) -> tuple[int, ...]:
        if self.relaxed:
            return self.relaxed.draw(rng, None).picks
        return self.exact.sample(rng).picks


class Weighed:
    """Draws from proposals that are taken by their weight."""

    def __init__(self, proposer: Proposer, pool: Sequence[Proposed], count: int) -> None:
        self.proposer = proposer
        known = len(pool) * FEW >= count
        self.accept = Accept(proposer.propose, pool, count) if known else None

    def draw(self, rng: random.Random) -> tuple[int, ...]:
        return self.proposer.draw(rng, self.accept).picks


def marked(
    sites: Sites, algebra: Algebra, limits: Limits, layered: frozenset[str] = frozenset()
) -> Exact:
    """The forest of a space whose shares know their places. Raises: SpaceError as `Exact` does."""
    return Exact.of(Marked(sites, algebra, limits, layered, spent=False))


def weight(share: float, table: Table) -> float:
    """What stands for a share of the space's own."""
    return table[share.place] if isinstance(share, Share) else share


def weighed(proposer: Sequential, sites: Sites, table: Table) -> Weighed:
    """Draws of a sequential proposer, made for `sites.space`, under a table of weights."""
    rng = random.Random(0)
    first = proposer.weighted(shares(sites, table))
    second = first.spread(proposals(first, rng, POOL))
    return Weighed(second, proposals(second, rng, POOL), POOL)


def shares(sites: Sites, table: Table) -> Mapping[int, tuple[float, ...]]:
    """The weights of each choice, by its identity."""
    pairs = zip(sites.choices, sites.starts, sites.starts[1:], strict=False)
    return {id(choice): tuple(table[start:end]) for choice, start, end in pairs}


def proposals(proposer: Proposer, rng: random.Random, count: int) -> list[Proposed]:
    """Those of `count` proposals that came through."""
    return [p for p in (proposer.propose(rng) for _ in range(count)) if p is not None]
