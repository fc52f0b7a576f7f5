"""What a trial leaves behind: the records that cross from `search/` to `registry/`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from einspace.dominance import fronts
from einspace.interface import Interface

Status: TypeAlias = Literal[
    "ok", "pruned", "invalid", "oom", "nan", "timeout", "killed", "bug", "running", "waiting"
]
CAPTURED = "captured"  # how a trial was trained whose step was a CUDA graph


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one evaluation.

    `value` is the task's metric on the validation split at the last epoch trained, None unless the
    status is ok or pruned. `curves` maps a name (`train_loss`, `val_acc` ...) to one number an
    epoch. `metrics` are final numbers: params, flops, seconds, epochs, peak_bytes ... `engine` is
    how it was trained: `captured`, or `eager: ` and why.
    """

    status: Status
    value: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    error: str = ""
    engine: str = ""


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One row of the trial table; `text` is the normal form, `seconds` are wall-clock.

    `value` is the task's metric, `engine` how it was trained. `values` are all objectives in the
    order asked, the metric first and the others to be made small; empty where the metric is the
    only one.
    """

    number: int
    status: Status
    text: str = ""
    hash: str = ""
    value: float | None = None
    params: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    trace: Mapping[str, int] = field(default_factory=dict)
    origin: str = ""
    error: str = ""
    started: float = 0.0
    seconds: float = 0.0
    values: tuple[float, ...] = ()
    engine: str = ""

    def point(self, *, maximize: bool) -> tuple[float, ...] | None:
        """All objectives as numbers to make small; None where one is missing or not finite."""
        if self.value is None:
            return None
        found = (-self.value if maximize else self.value, *self.values[1:])
        return found if all(map(math.isfinite, found)) else None


@dataclass(frozen=True, slots=True)
class SearchRecord:
    """A whole search as it is projected to the tracker and reported.

    `tags` are versions, seed, threads, data hash, commit; `space` and `objective` name what was
    asked. `direction` is maximize or minimize. `objectives` are all that were asked, the metric
    first; empty where it is the only one.
    """

    study: str
    space: str
    space_text: str
    task: str
    metric: str
    direction: Literal["maximize", "minimize"]
    tags: Mapping[str, str]
    trials: tuple[TrialRecord, ...]
    task_interface: Interface | None = None
    final: Mapping[str, object] = field(default_factory=dict)
    objectives: tuple[str, ...] = ()

    def best(self) -> TrialRecord | None:
        """The finished trial with the best metric, the earlier one at a tie; None when none has
        finished."""
        done = [t for t in self.trials if t.status == "ok" and t.value is not None]
        sign = -1.0 if self.direction == "maximize" else 1.0
        return min(done, key=lambda t: (sign * (t.value or 0.0), t.number), default=None)

    def front(self) -> tuple[TrialRecord, ...]:
        """The finished trials that none dominates in all objectives, the best metric first."""
        maximize = self.direction == "maximize"
        done = [(t.point(maximize=maximize), t) for t in self.trials if t.status == "ok"]
        points = [(point, trial) for point, trial in done if point is not None]
        members = fronts([point for point, _ in points])[:1]
        found = [points[i] for i in (members[0] if members else ())]
        return tuple(t for _, t in sorted(found, key=lambda pair: (pair[0], pair[1].number)))

    def counts(self) -> dict[str, int]:
        """Trials by status."""
        found: dict[str, int] = {}
        for trial in self.trials:
            found[trial.status] = found.get(trial.status, 0) + 1
        return found
