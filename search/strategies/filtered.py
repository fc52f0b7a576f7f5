"""Of `drawn` proposals of another strategy the one with the highest zero-cost proxy is proposed.

The proxy (`search/proxies.py`) is computed as the trial would start: weights from the study's seed,
the task's first training batch, in a child of the warmed process, within the memory of a trial and
`SECONDS`. A candidate whose proxy fails or does not exist counts as lowest; where all do, the first
stands. Known architectures are no choice while there is another.

Draw j of redraw r asks the inner strategy for redraw r - j * STRIDE below its patience and for
r + j * STRIDE from there on: every draw has a generator of its own, and a strategy that gives up
breeding after so many redraws does so at the same redraw as without the filter. `bayes` and
`bayes_evolution` are not filtered: their surrogate reads the proxy (see there). A proposal depends
on (table, seed, number, redraw) alone; scores are remembered by id, which spares work only.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from einspace.candidates import Candidate, Frame
from einspace.compile import compile_text
from einspace.interface import Interface
from einspace.result import TrialRecord
from search.evaluate import Evaluator, Job
from search.strategies import Strategy

LOWEST = float("-inf")
SECONDS = 30.0
PATIENCE = 10  # as in evolution, pareto and cem
STRIDE = 100  # more than the redraws of a claim


@dataclass(frozen=True, slots=True)
class Filtered:
    """The filter around `inner`; `score(text, id)` is the higher the better."""

    inner: Strategy
    name: str
    score: Callable[[str, str], float]
    drawn: int = 8

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
        stride = STRIDE if redraw >= PATIENCE else -STRIDE
        pool = [
            self.inner.propose(
                frame,
                table,
                maximize=maximize,
                seed=seed,
                number=number,
                redraw=redraw + j * stride,
            )
            for j in range(self.drawn)
        ]
        known = {t.hash for t in table}
        fresh = {c.hash: (c, origin) for c, origin in reversed(pool) if c.hash not in known}
        options = list(reversed(fresh.values()))
        if not options:
            return pool[0]
        candidate, origin = max(
            options, key=lambda option: self.score(option[0].text, option[0].hash)
        )
        return candidate, f"{origin}, best {self.name} of {len(options)}"


@dataclass(frozen=True, slots=True)
class Scorer:
    """A proxy of architectures in the warmed process of a worker; remembers them by id."""

    evaluator: Evaluator
    interface: Interface
    name: str
    seed: int
    memory_bytes: int
    _known: dict[str, float] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, text: str, hash_: str) -> float:
        """The proxy, or `LOWEST`."""
        if hash_ not in self._known:
            job = Job(
                source=compile_text(text, self.interface).source,
                seed=self.seed,
                epochs=0,
                lr=0.0,
                weight_decay=0.0,
                wall_seconds=SECONDS,
                memory_bytes=self.memory_bytes,
                proxy=self.name,
            )
            found = self.evaluator.run(job).metrics.get("proxy", LOWEST)
            self._known[hash_] = found if math.isfinite(found) else LOWEST
        return self._known[hash_]
