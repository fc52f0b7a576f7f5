"""Regularised evolution: the oldest dies, not the worst (Real et al. 2019, arXiv:1802.01548).

The population is the last `population` trials that have a value and a trace; a tournament of
`tournament` of them gives a parent. A child is a mutation, or with probability `crossover` a
crossing of two parents. Until the population is full, and after ten redraws of known
architectures, the space itself is drawn from.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from einspace.candidates import Candidate, Frame, crossover, mutate, sample
from einspace.result import TrialRecord
from grammar.errors import SpaceError
from search.strategies import generator

PATIENCE = 10


@dataclass(frozen=True, slots=True)
class Evolution:
    """The strategy with its three numbers."""

    population: int = 20
    tournament: int = 5
    crossover: float = 0.2

    def alive(self, table: Sequence[TrialRecord]) -> list[TrialRecord]:
        """The population; seeds given as text have no trace and cannot be changed."""
        done = [t for t in table if t.status in ("ok", "pruned") and t.trace and _value(t)]
        return done[-self.population :]

    def parent(
        self, alive: Sequence[TrialRecord], maximize: bool, rng: random.Random
    ) -> TrialRecord:
        """The best of a tournament, the younger one at a tie."""
        drawn = rng.sample(alive, min(self.tournament, len(alive)))
        sign = 1.0 if maximize else -1.0
        return max(drawn, key=lambda t: (sign * (t.value or 0.0), t.number))

    def propose(
        self,
        frame: Frame,
        table: Sequence[TrialRecord],
        *,
        maximize: bool,
        seed: int,
        number: int,
        redraw: int,
    ) -> tuple[Candidate, str]:
        rng = generator(seed, number, redraw)
        alive = self.alive(table)
        if len(alive) < self.population or redraw >= PATIENCE:
            return sample(frame, rng), "prior"
        first = self.parent(alive, maximize, rng)
        try:
            if rng.random() < self.crossover:
                second = self.parent([t for t in alive if t is not first], maximize, rng)
                child = crossover(frame, first.trace, second.trace, rng)
                return child, f"crossover of #{first.number} and #{second.number}"
            return mutate(frame, first.trace, rng), f"mutation of #{first.number}"
        except SpaceError:  # The parent's limits were wider than today's, so no child may fit.
            return sample(frame, rng), "prior"


def _value(trial: TrialRecord) -> bool:
    return trial.value is not None and math.isfinite(trial.value)
