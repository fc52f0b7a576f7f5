"""MLflow as a projection of the study: what the study holds, the tracker shows.

`project` is idempotent: it makes what is missing, completes what is half-written and leaves the
rest alone, so that repairing is projecting again. Only the coordinator writes; workers never do.
One experiment, a parent run per study, a child run per trial; at most 20 parameters and one
`log_batch` per run. The architecture's text is an artifact.
"""

import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from einspace.result import SearchRecord, TrialRecord
from grammar.errors import UserError
from registry.artifacts import trial_files
from registry.report import report_page

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "einspace"
# Killed from outside is not a failure of the architecture.
ENDED = {
    "ok": "FINISHED",
    "pruned": "FINISHED",
    "killed": "KILLED",
    "running": "RUNNING",
    "waiting": "SCHEDULED",
}
BATCH = 900
KEY = re.compile(r"[^A-Za-z0-9_\-. :/]")


def tracking_uri(runs: Path) -> str:
    """The SQLite database of MLflow under a runs folder."""
    return f"sqlite:///{(runs / 'mlflow.db').resolve()}"


def client_of(uri: str) -> "MlflowClient":
    """A quiet client; the first call creates the schema, which takes seconds."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):  # after the import, which sets levels of its own
        logging.getLogger(name).setLevel(logging.ERROR)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _experiment(client: "MlflowClient", uri: str) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)
    location = None
    if uri.startswith("sqlite:///"):
        location = (Path(uri.removeprefix("sqlite:///")).parent / "artifacts").as_uri()
    kind = {"mlflow.experimentKind": "custom_model_development"}
    return str(client.create_experiment(EXPERIMENT, location, tags=kind))


def _runs(client: "MlflowClient", experiment: str, study: str, kind: str) -> list[Any]:
    """All runs of a study, oldest first."""
    found: list[Any] = []
    token = None
    query = f"tags.`nas.study` = '{study}' and tags.`nas.kind` = '{kind}'"
    while True:
        page = client.search_runs(
            [experiment], query, order_by=["attributes.start_time ASC"], page_token=token
        )
        found.extend(page)
        token = page.token
        if not token:
            return found


def _found(uri: str, study: str, kind: str) -> list[Any]:
    """The runs of a study; none when nothing was projected yet."""
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return []
    client = client_of(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return [] if experiment is None else _runs(client, experiment.experiment_id, study, kind)


def run_ids(uri: str, study: str) -> dict[int, str]:
    """Trial number -> MLflow run id."""
    rows = _found(uri, study, "trial")
    return {int(r.data.tags["optuna.trial"]): r.info.run_id for r in rows}


def trial_of(uri: str, run_id: str) -> tuple[str, int] | None:
    """The study and number of a trial's run id; None where it is the run of no trial."""
    from mlflow.exceptions import MlflowException

    try:
        tags = client_of(uri).get_run(run_id).data.tags
    except MlflowException:
        return None
    if "optuna.trial" not in tags or "nas.study" not in tags:
        return None
    return str(tags["nas.study"]), int(tags["optuna.trial"])


def study_run(uri: str, study: str) -> str | None:
    """The run id of the study itself."""
    rows = _found(uri, study, "search")
    return str(rows[0].info.run_id) if rows else None


def project(record: SearchRecord, uri: str, *, finished: bool = True) -> int:
    """Make MLflow show the record; returns the number of runs written.

    `finished` also writes the report and closes the parent run.
    """
    client = client_of(uri)
    experiment = _experiment(client, uri)
    parent = _parent(client, experiment, record)
    known = _known(client, experiment, parent, record)
    written = 0
    front = {t.number for t in record.front()} if record.objectives else set()
    for trial in record.trials:
        run = known.get(trial.number)
        if trial.status != "waiting" and not _complete(run, trial):
            run = _write(client, experiment, parent, record, trial, run)
            written += 1
        if run is None:
            continue
        # A member leaves the front when a better trial ends.
        if trial.number in front and run.data.tags.get("nas.front") is None:
            client.set_tag(run.info.run_id, "nas.front", "yes")
        elif trial.number not in front and "nas.front" in run.data.tags:
            client.delete_tag(run.info.run_id, "nas.front")
    if finished:
        _close(client, parent, record)
    return written


def _parent(client: "MlflowClient", experiment: str, record: SearchRecord) -> str:
    """The study's run, with today's tags and the best value so far as a curve over trials."""
    from mlflow.entities import Metric, RunTag

    tags = {"nas.study": record.study, "nas.kind": "search", "nas.space": record.space}
    tags |= {"nas.task": record.task, "nas.metric": record.metric}
    if record.objectives:
        tags["nas.objectives"] = ",".join(record.objectives)
    tags |= {f"nas.{KEY.sub('_', k)}": str(v)[:4000] for k, v in record.tags.items()}
    parents = _runs(client, experiment, record.study, "search")
    if parents:
        parent = str(parents[0].info.run_id)
    else:
        parent = str(client.create_run(experiment, run_name=record.study, tags=tags).info.run_id)
    # A trial's end as the time stamp makes a second projection write the same rows, not more.
    course = [
        Metric(f"best_{KEY.sub('_', record.metric)}", t.value or 0.0, _end(t), t.number)
        for t in improvements(record)
    ]
    client.log_batch(parent, course[-BATCH:], [], [RunTag(k, v) for k, v in tags.items()][:100])
    return parent


def improvements(record: SearchRecord) -> list[TrialRecord]:
    """The finished trials that were better than all before them."""
    best: list[TrialRecord] = []
    sign = 1.0 if record.direction == "maximize" else -1.0
    for trial in sorted(record.trials, key=lambda t: t.number):
        if trial.status != "ok" or trial.value is None:
            continue
        if not best or sign * trial.value > sign * (best[-1].value or 0.0):
            best.append(trial)
    return best


def _known(
    client: "MlflowClient", experiment: str, parent: str, record: SearchRecord
) -> dict[int, Any]:
    """The runs of the record's trials by number. Runs of another study that had this name, and
    doubles, are deleted (MLflow keeps deleted runs until `mlflow gc`)."""
    trials = {t.number: t for t in record.trials}
    known: dict[int, Any] = {}
    for run in _runs(client, experiment, record.study, "trial"):
        number = int(run.data.tags["optuna.trial"])
        trial = trials.get(number)
        seen = run.data.tags.get("nas.hash")
        if trial is None or number in known or (seen and trial.hash and seen != trial.hash):
            client.delete_run(run.info.run_id)
            continue
        if run.data.tags.get("mlflow.parentRunId") != parent:
            client.set_tag(run.info.run_id, "mlflow.parentRunId", parent)
        known[number] = run
    return known


def _end(trial: TrialRecord) -> int:
    """When a trial ended, in milliseconds."""
    return int(1000 * (trial.started + trial.seconds))


def _complete(run: Any, trial: TrialRecord) -> bool:
    return (
        run is not None
        and run.data.tags.get("nas.complete") == trial.status
        and run.info.status == ENDED.get(trial.status, "FAILED")
    )


def _write(
    client: "MlflowClient",
    experiment: str,
    parent: str,
    record: SearchRecord,
    trial: TrialRecord,
    run: Any,
) -> Any:
    """The trial's run, made if it is None, with all that is known of the trial."""
    if run is None:
        tags = {
            "mlflow.parentRunId": parent,
            "nas.study": record.study,
            "nas.kind": "trial",
            "optuna.trial": str(trial.number),
        }
        name = f"trial-{trial.number:05d}"
        start = int(1000 * trial.started) or None
        run = client.create_run(experiment, start_time=start, tags=tags, run_name=name)
    if trial.status == "running":
        return run
    from mlflow.entities import Metric, Param, RunTag

    run_id, end = run.info.run_id, _end(trial)
    rows = [Metric(k, v, end, step) for k, v, step in _metrics(record, trial)]
    facts = {**trial.params, "origin": trial.origin or "-"}
    params = [Param(KEY.sub("_", k), str(v)[:500]) for k, v in facts.items()][:20]
    labels = {"nas.hash": trial.hash, "nas.status": trial.status, "nas.error": trial.error[:2000]}
    labels |= {"nas.engine": trial.engine[:500]} if trial.engine else {}
    client.log_batch(run_id, rows[:BATCH], params, [RunTag(k, v) for k, v in labels.items()])
    for start in range(BATCH, len(rows), BATCH):
        client.log_batch(run_id, rows[start : start + BATCH])
    for name, text in trial_files(trial, record.task_interface).items():
        client.log_text(run_id, text, name)
    # Last: a run without this tag is half-written and is written again.
    client.set_tag(run_id, "nas.complete", trial.status)
    client.set_terminated(run_id, ENDED.get(trial.status, "FAILED"), end_time=end)
    return run


def _metrics(record: SearchRecord, trial: TrialRecord) -> Iterable[tuple[str, float, int]]:
    """The objectives first; of many curves or numbers, the first 15."""
    if trial.value is not None:
        yield KEY.sub("_", record.metric), trial.value, 0
    costs = dict(zip(record.objectives[1:], trial.values[1:], strict=False))
    for name, value in list({**costs, **trial.metrics}.items())[:15]:
        yield KEY.sub("_", name), value, 0
    for name, values in list(trial.curves.items())[:15]:
        for step, value in enumerate(values, start=1):
            yield KEY.sub("_", name), value, step


def _close(client: "MlflowClient", parent: str, record: SearchRecord) -> None:
    best = record.best()
    if best is not None and best.value is not None:
        client.set_tag(parent, "nas.best_trial", str(best.number))
        for name, text in trial_files(best, record.task_interface).items():
            client.log_text(parent, text, f"best/{name}")
    for name, value in record.final.items():
        if isinstance(value, int | float):
            client.log_metric(parent, f"final_{KEY.sub('_', name)}", float(value))
    client.log_text(parent, record.space_text, "space.space")
    client.log_text(parent, report_page(record), "report.html")
    client.set_terminated(parent, "FINISHED")


class Projector:
    """Projects records as a search goes on; a failure is told once and tried again next time."""

    def __init__(self, uri: str, tell: Callable[[str], None], every: float = 10.0) -> None:
        self.uri, self.tell, self.every = uri, tell, every
        self.told = False
        self.ended = 0
        self.next = 0.0

    def follow(self, record: SearchRecord) -> None:
        """`push` of a running search: at most every `every` seconds, when more trials have ended.

        A slow tracker is asked less: the pause is at least ten times what the last push took.
        """
        ended = sum(t.status not in ("running", "waiting") for t in record.trials)
        now = time.monotonic()
        if ended <= self.ended or now < self.next:
            return
        self.push(record, finished=False)
        took = time.monotonic() - now
        self.ended, self.next = ended, now + took + max(self.every, 10 * took)

    def push(self, record: SearchRecord, *, finished: bool = True) -> bool:
        """Whether MLflow now shows the record."""
        try:
            project(record, self.uri, finished=finished)
        except tracking_errors() as error:
            self._failed(record.study, "written", error)
            return False
        return True

    def runs(self, study: str) -> dict[int, str]:
        """`run_ids`; none where MLflow cannot be read."""
        try:
            return run_ids(self.uri, study)
        except tracking_errors() as error:
            self._failed(study, "read", error)
            return {}

    def _failed(self, study: str, what: str, error: Exception) -> None:
        if not self.told:
            self.tell(
                f"MLflow could not be {what} ({first_line(error)}); the study is complete "
                f"without it, and `einspace repair {study}` brings it up to date"
            )
        self.told = True


def tracking_errors() -> tuple[type[Exception], ...]:
    """What tracking may fail with; none of it may end a search."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, UserError)


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
