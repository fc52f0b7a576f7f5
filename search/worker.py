"""A worker: takes trials from the study until there is none left, and evaluates each.

Run as `python -m search.worker` with a `WorkerSpec` as JSON on standard input; the last line on
standard output is its `Ending` as JSON. It holds no MLflow handle, and dies with its parent.
"""

import gc
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from types import FrameType
from typing import Literal

import optuna
from optuna.trial import Trial, TrialState

from einspace.candidates import Frame, frame
from einspace.compile import Compiled, compile_text
from einspace.result import CAPTURED, Result
from grammar.errors import SpaceError, UserError
from search import study as studies
from search.claim import Nothing, claim
from search.evaluate import Evaluator, Job
from search.kinship import Breeding, heir, prune
from search.lease import Beat, give_back
from search.limits import die_with
from search.objectives import MEASURED, values_of
from search.race import Race, rungs_of
from search.strategies import Strategy
from search.strategies.filtered import Filtered, Scorer
from search.study import Ledger, Setup
from search.task import Task
from search.tasks import find as find_task

TRIAL_SECONDS = 3600.0
USER_FAULT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """What a worker must be told; everything else is in the study.

    `deadline` (seconds since the epoch): no trial starts after it. `parent`: die with this process.
    """

    study: str
    trials: int
    storage: str | None = None
    threads: int = 1
    device: str = "cpu"
    deadline: float | None = None
    parent: int | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a worker ended."""

    reason: Literal["done", "exhausted", "deadline", "stopped", "fault"]
    message: str = ""


class Interrupted(KeyboardInterrupt):
    """The worker was told to stop while a trial was training."""


class Stop:
    """SIGTERM and SIGINT: breaks off a training run at once, but never a write to the study."""

    def __init__(self) -> None:
        self.told = False
        self._armed = False

    def handle(self, signum: int, stack: FrameType | None) -> None:
        """The signal handler."""
        self.told = True
        if self._armed:
            self._armed = False
            raise Interrupted

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """A stretch in which a signal raises `Interrupted`."""
        self._armed = True
        try:
            if self.told:
                raise Interrupted
            yield
        finally:
            self._armed = False

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """A stretch inside `breakable` in which a signal waits."""
        armed, self._armed = self._armed, False
        yield
        self._armed = armed
        if armed and self.told:
            self._armed = False
            raise Interrupted


def search_frame(setup: Setup, task: Task) -> Frame:
    """The space and limits of a study, checked. Raises: SpaceError."""
    return frame(
        setup.space_text,
        task.interface,
        max_params=setup.max_params,
        max_flops=setup.max_flops,
        max_nodes=setup.max_nodes,
    )


def run_worker(
    spec: WorkerSpec, stop: Stop | None = None, on_trial: Callable[[int], None] | None = None
) -> Ending:
    """Works until the study is full, the space exhausted, the deadline past or `stop` told.

    `on_trial` is called with the number of each trial that ended.
    Raises: UserError where the study, space or task cannot be used.
    """
    from search.strategies import find as find_strategy

    stop = stop or Stop()
    ledger = studies.open_ledger(spec.study, spec.storage)
    setup, task = ledger.setup, find_task(ledger.setup.task)
    strategy, space = find_strategy(setup.strategy), search_frame(setup, task)
    with Evaluator(task, threads=spec.threads, device=spec.device) as evaluator:
        evaluator.ready()  # Warm before the first trial's clock starts.
        ledger.table()
        gc.freeze()  # What is there stays: no collection walks it while a proposal is made.
        score, proposer = _filtered(strategy, setup, task, evaluator)
        while not stop.told:
            if spec.deadline is not None and time.time() >= spec.deadline:
                return Ending("deadline", "the time is up")
            trial = claim(ledger, space, task.interface, proposer, spec.trials)
            if isinstance(trial, Nothing):
                return Ending(trial.reason, trial.message)
            _run_trial(ledger, trial, evaluator, task, spec, stop, score)
            if ledger.setup.inherit and isinstance(strategy, Breeding):
                prune(ledger.folder, strategy, ledger.table())
            if on_trial is not None:
                on_trial(trial.number)
    return Ending("stopped", "told to stop")


def _filtered(
    strategy: Strategy, setup: Setup, task: Task, evaluator: Evaluator
) -> tuple[Scorer | None, Strategy]:
    """The study's proxy, and the strategy with it: a surrogate reads it, others are sieved."""
    if not setup.proxy:
        return None, strategy
    from search.strategies.bayes import Bayes, BayesEvolution

    memory = task.budget.memory_bytes
    score = Scorer(evaluator, task.interface, setup.proxy, setup.seed, memory)
    if isinstance(strategy, Bayes | BayesEvolution):
        return score, replace(strategy, score=score)
    return score, Filtered(strategy, setup.proxy, score)


def _run_trial(
    ledger: Ledger,
    trial: Trial,
    evaluator: Evaluator,
    task: Task,
    spec: WorkerSpec,
    stop: Stop,
    score: Scorer | None = None,
) -> None:
    """One trial from claim to tell; an interrupted one is given back."""
    text = str(trial.user_attrs["nas.text"])
    size: Mapping[str, float] = trial.user_attrs.get("nas.size", {})
    try:
        compiled = compile_text(text, task.interface)
    except SpaceError as error:
        _finish(ledger, trial, Result("invalid", error=error.render()), size)
        return
    job = _job(ledger.setup, task, compiled, trial, spec.threads)
    size = {**size, "state_bytes": compiled.state_bytes} if ledger.setup.objectives else size
    if score is not None and math.isfinite(proxy := score(text, compiled.hash)):
        size = {**size, "proxy": proxy}
    race = Race(ledger, trial.number, size)
    if ledger.setup.inherit:
        rows = ledger.table()
        job = heir(job, ledger.folder, rows, rows[trial.number], task.interface)

    def report(epoch: int, value: float) -> bool:
        with stop.shielded():
            if ledger.setup.objectives:
                return race.stops(epoch, value, evaluator.costs)
            trial.report(value, epoch)
            return epoch < job.epochs and bool(trial.should_prune())

    try:
        with Beat(ledger, trial.number), stop.breakable():
            result = evaluator.run(job, report)
    except Interrupted:
        give_back(ledger, trial.number, "interrupted", "the search was stopped")
        return
    except optuna.exceptions.UpdateFinishedTrialError:
        return  # Taken from us: our beat was late, and another worker gave the trial back.
    if spec.device != "cpu" and result.engine not in ("", CAPTURED):
        print(f"trial {trial.number}: trained {result.engine}", file=sys.stderr, flush=True)
    _finish(ledger, trial, result, size)


def _job(setup: Setup, task: Task, compiled: Compiled, trial: Trial, threads: int) -> Job:
    """All candidates of a study start from one seed: what differs is the architecture."""
    return Job(
        source=compiled.source,
        eager=compiled.eager,
        seed=setup.seed,
        epochs=setup.epochs,
        lr=trial.suggest_float("lr", *studies.LEARNING_RATE, log=True),
        weight_decay=trial.suggest_float("weight_decay", *studies.WEIGHT_DECAY, log=True),
        threads=threads,
        wall_seconds=task.budget.seconds or TRIAL_SECONDS,
        memory_bytes=task.budget.memory_bytes,
        costs=tuple(name for name in setup.objectives if name in MEASURED),
        rungs=rungs_of(setup),
    )


def _finish(ledger: Ledger, trial: Trial, result: Result, size: Mapping[str, float]) -> None:
    """Writes the result, then tells: a trial that is told has all its numbers."""
    status, value = result.status, result.value
    if status == "ok" and (value is None or not math.isfinite(value)):
        status, value = "nan", None
    goals = ledger.setup.objectives
    values = (
        values_of(goals, value, {**size, **result.metrics}) if goals and value is not None else None
    )
    try:
        if goals:
            ledger.note(trial.number, values=values)
        ledger.note(
            trial.number,
            status=status,
            metrics={**size, **result.metrics},
            curves={k: list(v) for k, v in result.curves.items()},
            error=result.error,
            engine=result.engine,
        )
        if status == "ok":
            ledger.study.tell(trial, values if goals else value)
        else:
            pruned = status == "pruned"
            ledger.study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)
    except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
        return  # Given back by another worker meanwhile: its retry counts, not this.


def main() -> int:
    """The process: specification in, ending out."""
    spec = WorkerSpec(**json.load(sys.stdin))
    stop = Stop()
    signal.signal(signal.SIGTERM, stop.handle)
    signal.signal(signal.SIGINT, stop.handle)
    if spec.parent is not None:
        die_with(spec.parent)
    try:
        ending, code = run_worker(spec, stop), 0
    except UserError as error:
        ending, code = Ending("fault", error.render()), USER_FAULT
    print(json.dumps(asdict(ending)), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
