"""Reads a study: Optuna's trials as `TrialRecord`s, the whole as a `SearchRecord`."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast, get_args

from optuna.trial import FrozenTrial, TrialState

from einspace.result import SearchRecord, Status, TrialRecord
from search.tasks import find as find_task

if TYPE_CHECKING:
    from search.study import Ledger

_STATUS: Mapping[TrialState, Status] = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.COMPLETE: "ok",
    TrialState.PRUNED: "pruned",
}


def trial_record(trial: FrozenTrial) -> TrialRecord:
    """One row of the trial table."""
    attrs = trial.user_attrs
    told = attrs.get("nas.status", "killed")
    failed: Status = told if told in get_args(Status) and told != "ok" else "killed"
    # Optuna gives a pruned trial of several objectives no values.
    values = tuple(float(v) for v in trial.values or attrs.get("nas.values") or ())
    start, end = trial.datetime_start, trial.datetime_complete
    return TrialRecord(
        number=trial.number,
        status=_STATUS.get(trial.state, failed),
        text=str(attrs.get("nas.text", "")),
        hash=str(attrs.get("nas.hash", "")),
        value=values[0] if values else None,
        values=values if len(values) > 1 else (),
        params={k: float(v) for k, v in trial.params.items()},
        metrics={k: float(v) for k, v in attrs.get("nas.metrics", {}).items()},
        curves={k: tuple(v) for k, v in attrs.get("nas.curves", {}).items()},
        trace={k: int(v) for k, v in json.loads(attrs.get("nas.trace", "{}")).items()},
        origin=str(attrs.get("nas.origin", "")),
        error=str(attrs.get("nas.error", "")),
        engine=str(attrs.get("nas.engine", "")),
        started=start.timestamp() if start else 0.0,
        seconds=(end - start).total_seconds() if start and end else 0.0,
    )


def search_record(ledger: "Ledger") -> SearchRecord:
    """The whole search as the tracker and the reports see it."""
    setup = ledger.setup
    final = ledger.study.user_attrs.get("nas.final", {})
    return SearchRecord(
        study=setup.name,
        space=setup.space,
        space_text=setup.space_text,
        task=setup.task,
        metric=setup.objective,
        objectives=setup.objectives,
        direction=setup.direction,
        tags=ledger.tags(),
        trials=ledger.table(),
        task_interface=find_task(setup.task).interface,
        final=cast(Mapping[str, object], final),
    )
