"""The cross-entropy method: each generation draws from the grammar that its elite taught.

A generation is `size` trials. Its grammar has the weights that maximise the posterior of the
elite's derivations under the space's own weights (`grammar/learn.py`), mixed with these:

    w = (1 - mix) w_elite + mix w_space

so that nothing that the space can derive ever becomes impossible. The elite is the best `quantile`
of the last `window` generations before this one, full trainings before pruned ones, the earlier
trial first at a tie. The first generation, and the redraws from `PATIENCE` on, come from the space.

Draws are exact under these weights, given validity and budget, or sequential where the space's own
are (`einspace.draws.taught`): each generation weighs anew what the space's own draws were built on.

Source: Rubinstein & Kroese 2004, "The Cross-Entropy Method", sections 2.1 and 5.2 (smoothing).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from einspace.candidates import Candidate, Frame, sample, taught_sample
from einspace.draws import sites_of, taught
from einspace.result import TrialRecord
from grammar.ast import Space
from grammar.errors import SpaceError
from grammar.learn import Sites, Table, counted, fit, summed, tamed
from grammar.taught import Taught
from search.strategies import generator

PATIENCE = 10
Trace = Mapping[str, int]


@dataclass(slots=True)
class _Memory:
    """What was computed for the last space; every entry follows from its key alone."""

    space: Space | None = None
    places: Sites | None = None
    counts: dict[tuple[tuple[str, int], ...], Table | None] = field(default_factory=dict)
    learned: tuple[tuple[tuple[tuple[str, int], ...], ...], Taught] | None = None


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """The strategy with its five numbers."""

    size: int = 20
    quantile: float = 0.2
    window: int = 5
    mix: float = 0.1
    strength: float = 1.0
    _memory: _Memory = field(default_factory=_Memory, compare=False, repr=False)

    def elite(self, table: Sequence[TrialRecord], number: int, maximize: bool) -> list[TrialRecord]:
        """The teachers of the generation of trial `number`."""
        end = number // self.size * self.size
        start = max(0, end - self.window * self.size)
        rows = [t for t in table if start <= t.number < end and _usable(t)]
        sign = -1.0 if maximize else 1.0
        rows.sort(key=lambda t: (t.status != "ok", sign * (t.value or 0.0), t.number))
        return rows[: math.ceil(self.quantile * len(rows))]

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
        elite = self.elite(table, number, maximize)
        if not elite or redraw >= PATIENCE:
            return sample(frame, rng), "prior"
        source = self._learned(frame, elite)
        if source is None:
            return sample(frame, rng), "prior"
        return taught_sample(frame, source, rng), f"cem {number // self.size} of {len(elite)}"

    def _learned(self, frame: Frame, elite: Sequence[TrialRecord]) -> Taught | None:
        """Draws from what the elite teaches; None where no trace of it fits the frame's space."""
        memory = self._memory
        if memory.space is not frame.space or memory.places is None:
            memory.space, memory.places = frame.space, sites_of(frame)
            memory.counts.clear()
            memory.learned = None
        places = memory.places
        keys = tuple(tuple(sorted(t.trace.items())) for t in elite)
        if memory.learned is None or memory.learned[0] != keys:
            tables = [
                n for t, k in zip(elite, keys, strict=True) if (n := self._counts(frame, t, k))
            ]
            if not tables:
                return None
            found = fit(places, summed(tables, len(places.own)), strength=self.strength)
            mixed = tuple(
                (1 - self.mix) * w + self.mix * v
                for w, v in zip(found.weights, places.own, strict=True)
            )
            memory.learned = keys, taught(frame, tamed(places, mixed)[0])
        return memory.learned[1]

    def _counts(
        self, frame: Frame, trial: TrialRecord, key: tuple[tuple[str, int], ...]
    ) -> Table | None:
        memory = self._memory
        if key not in memory.counts:
            assert memory.places is not None
            try:
                memory.counts[key] = counted(memory.places, trial.trace, frame.typing)
            except SpaceError:  # A seed's trace, from when the space was another.
                memory.counts[key] = None
        return memory.counts[key]


def _usable(trial: TrialRecord) -> bool:
    known = trial.value is not None and math.isfinite(trial.value)
    return known and bool(trial.trace) and trial.status in ("ok", "pruned")
