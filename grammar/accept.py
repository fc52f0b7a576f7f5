"""Draws from weighted proposals: each is taken with a probability that grows with its weight.

A proposal has probability q where p is wanted; w = p / q. Taken with probability min(1, w / c), it
is a draw from what min(w, c) leaves of the wanted distribution. The bound c is the greatest weight
of a pool of proposals, so the rest, max(0, w - c), has next to no mass; where that bound would take
fewer than one proposal in `SLOWEST`, it is made smaller, and the rest is drawn from the pool with
its share of the mass. Draws then follow p up to the Monte Carlo error of the pool.

Source: rejection control (Liu, Chen & Wong 1998); the rest by sampling-importance-resampling (Rubin
1987).
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from grammar.exact import Drawn

SLOWEST = 40  # proposals a draw
TRIES = 4_000


@dataclass(frozen=True, slots=True)
class Proposed:
    """A valid derivation: picks, log p, log p / q, and what it costs."""

    picks: tuple[int, ...]
    log_prob: float
    log_weight: float
    nodes: int
    params: int
    flops: int

    def drawn(self, log_mass: float) -> Drawn:
        """As a draw, where this is the logarithm of the mass of all that is wanted."""
        return Drawn(self.picks, self.log_prob - log_mass, "estimate")


class Accept:
    """Draws from `propose`, which may come to nothing, with a pool of `count` proposals of which
    `pool` came through. The pool must not be empty."""

    def __init__(
        self,
        propose: Callable[[random.Random], Proposed | None],
        pool: Sequence[Proposed],
        count: int,
    ) -> None:
        self.propose, self.pool = propose, pool
        top = max(p.log_weight for p in pool)
        weights = [math.exp(p.log_weight - top) for p in pool]
        whole = math.fsum(weights)
        bound = 1.0
        least = min(count / SLOWEST, len(pool) / 2)
        while math.fsum(min(w / bound, 1.0) for w in weights) < least:
            bound /= 2
        self.log_bound = top + math.log(bound)
        rest = [max(0.0, w - bound) for w in weights]
        self.rest = math.fsum(rest) / whole
        self._wheel = list(accumulate(rest if self.rest else weights))

    def draw(self, rng: random.Random) -> Proposed:
        """A draw; from the pool alone where nothing else comes through."""
        if not self.rest or rng.random() >= self.rest:
            for _ in range(TRIES):
                found = self.propose(rng)
                if found and math.log(1 - rng.random()) <= found.log_weight - self.log_bound:
                    return found
        return rng.choices(self.pool, cum_weights=self._wheel)[0]
