"""Regularised evolution: the oldest dies, not the worst (Real et al. 2019, arXiv:1802.01548).

The population is the last `population` trials that have a value and a trace; a tournament of
`tournament` of them gives a parent. A child is a crossing of two parents with probability
`crossover`, else a hoist, a change of one value or a subtree drawn anew (`grammar/mutate.py`).
Until the population is full, and after ten redraws of known architectures, the space itself is
drawn from.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from einspace.candidates import Candidate, Frame, breed, sample
from einspace.result import TrialRecord
from grammar.errors import SpaceError
from grammar.mutate import Operator
from search.strategies import generator

PATIENCE = 10


@dataclass(frozen=True, slots=True)
class Evolution:
    """The strategy with its numbers; the shares of the operators leave the rest to `subtree`."""

    population: int = 20
    tournament: int = 5
    crossover: float = 0.2
    parameter: float = 0.25
    hoist: float = 0.05

    def alive(self, table: Sequence[TrialRecord]) -> list[TrialRecord]:
        """The population; seeds given as text have no trace and cannot be changed."""
        done = (t for t in reversed(table) if t.status in ("ok", "pruned") and t.trace)
        return list(islice(filter(_value, done), self.population))[::-1]

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
        operator, traces, mates = self.operator(rng), [first.trace], f"#{first.number}"
        if operator == "crossover":
            second = self.parent([t for t in alive if t is not first], maximize, rng)
            traces, mates = [*traces, second.trace], f"{mates} and #{second.number}"
        try:
            child, used = breed(frame, operator, traces, rng)
        except SpaceError:  # The parent's limits were wider than today's, so no child may fit.
            return sample(frame, rng), "prior"
        if used == "crossover":
            return child, f"crossover of {mates}"
        return child, f"mutation of #{first.number} ({used})"

    def operator(self, rng: random.Random) -> Operator:
        """What the next child is made by."""
        shares: dict[Operator, float] = {
            "crossover": self.crossover,
            "hoist": self.hoist,
            "parameter": self.parameter,
        }
        shares["subtree"] = 1.0 - sum(shares.values())
        return rng.choices(list(shares), list(shares.values()))[0]


def _value(trial: TrialRecord) -> bool:
    return trial.value is not None and math.isfinite(trial.value)
