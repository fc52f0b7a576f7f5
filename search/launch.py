"""Runs a search on this machine: worker processes, a watch over them, and one clean end.

The coordinator trains nothing and holds no trial: kill it and its workers die with it; the same
command goes on from the study. Workers are fresh processes, never forks of this one.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from einspace.candidates import candidate_of, sample
from einspace.result import SearchRecord
from grammar.errors import StudyError
from search import study as studies
from search.lease import reap
from search.records import search_record
from search.storage import locked, study_dir
from search.strategies import find as find_strategy
from search.strategies import generator
from search.study import Ledger, Setup
from search.tasks import find as find_task
from search.worker import Ending, WorkerSpec, search_frame

RESTARTS = 3
PATIENCE = 10.0
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How far and on what: `trials` is the total in the study; `timeout` in seconds starts no
    trial after it; `threads` of a worker are the cores divided by the workers unless given."""

    trials: int
    workers: int = 1
    timeout: float | None = None
    device: str = "cpu"
    storage: str | None = None
    threads: int | None = None

    def share(self) -> int:
        """Threads of one worker."""
        return self.threads or max(1, _cores() // max(1, self.workers))


def _cores() -> int:
    """The cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """A search after its end: the record and why it ended."""

    record: SearchRecord
    ending: Ending


@dataclass(slots=True)
class _Worker:
    """One worker process and its log."""

    process: subprocess.Popen[str]
    log: IO[str]
    restarts: int = 0


def search(
    setup: Setup,
    plan: Plan,
    on_poll: Callable[[SearchRecord], None] | None = None,
    every: float = 0.5,
) -> Outcome:
    """Creates or resumes a study and runs it to its end.

    Ctrl-C (SIGINT) and SIGTERM end it cleanly: the running trials are given back.
    Raises: StudyError, SpaceError, DataError.
    """
    if plan.trials < 1 or plan.workers < 1:
        raise StudyError(
            f"trials={plan.trials} and workers={plan.workers} cannot be", hint="give 1 or more"
        )
    find_strategy(setup.strategy)
    task = find_task(setup.task)
    sample(search_frame(setup, task), generator(setup.seed, 0, 0))  # Fails here, not in a worker.
    for name, text in setup.seeds:
        candidate_of(text, task.interface, name)
    folder = study_dir(setup.name, create=True)
    with locked(folder / "coordinator.lock", wait=False) as ours:
        if not ours:
            raise StudyError(
                f"study {setup.name!r} is being searched by another process",
                hint="wait for it, stop it, or give another --study name",
            )
        ledger = studies.create(setup, _tags(setup, plan), plan.storage)
        _bury(ledger)
        ending = _Crew(ledger, plan, on_poll, every).run()
        _bury(ledger)
        return Outcome(search_record(ledger), ending)


def _bury(ledger: Ledger) -> None:
    """Ends the trials of dead workers."""
    with locked(ledger.folder / "claim.lock"):
        reap(ledger)


class _Crew:
    """The workers of one search."""

    def __init__(
        self,
        ledger: Ledger,
        plan: Plan,
        on_poll: Callable[[SearchRecord], None] | None,
        every: float,
    ) -> None:
        self._ledger, self._plan, self._on_poll, self._every = ledger, plan, on_poll, every
        deadline = None if plan.timeout is None else time.time() + plan.timeout
        self._spec = WorkerSpec(
            study=ledger.setup.name,
            trials=plan.trials,
            storage=plan.storage,
            threads=plan.share(),
            device=plan.device,
            deadline=deadline,
            parent=os.getpid(),
        )
        self._interrupted = False

    def run(self) -> Ending:
        """Starts the workers and waits for the last one."""
        endings: list[Ending] = []
        with ExitStack() as stack:
            stack.enter_context(self._signals())
            workers = {i: self._start(i) for i in range(self._needed())}
            stack.callback(self._stop, workers)
            while workers and not self._interrupted:
                time.sleep(self._every)
                for index in [i for i, w in workers.items() if w.process.poll() is not None]:
                    ending = self._ended(index, workers)
                    if ending is not None:
                        endings.append(ending)
                self._poll()
        self._poll()
        if self._interrupted:
            return Ending("stopped", "stopped; run the same command again to go on")
        order = ("fault", "exhausted", "deadline", "done", "stopped")
        message = f"{len(self._ledger.trials())} trials are in the study"
        return min(endings, key=lambda e: order.index(e.reason), default=Ending("done", message))

    def _needed(self) -> int:
        """No more workers than trials that are left."""
        left = self._plan.trials - sum(t.state.is_finished() for t in self._ledger.trials())
        return max(0, min(self._plan.workers, left))

    def _poll(self) -> None:
        if self._on_poll is not None:
            self._on_poll(search_record(self._ledger))

    def _start(self, index: int, restarts: int = 0) -> _Worker:
        log = (self._ledger.folder / f"worker-{index}.log").open("a", encoding="utf-8")
        path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
        threads = str(self._spec.threads)
        process = subprocess.Popen(
            [sys.executable, "-m", "search.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": threads},
            start_new_session=True,  # Ctrl-C reaches the coordinator, which tells the workers.
        )
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(asdict(self._spec)))
            process.stdin.close()
        except BrokenPipeError:
            pass  # It is dead already; the watch will see it.
        return _Worker(process, log, restarts)

    def _ended(self, index: int, workers: dict[int, _Worker]) -> Ending | None:
        """Buries a worker; a crashed one is replaced, `RESTARTS` times at most."""
        worker = workers.pop(index)
        ending = _ending(worker)
        if ending is not None and ending.reason == "fault":
            raise StudyError(ending.message)
        if ending is not None and worker.process.returncode == 0:
            return ending
        if worker.restarts < RESTARTS:
            workers[index] = self._start(index, worker.restarts + 1)
            return None
        log = self._ledger.folder / f"worker-{index}.log"
        text = f"a worker died {RESTARTS + 1} times (exit status {worker.process.returncode})"
        return Ending("fault", f"{text}; its last words are in {log}")

    def _stop(self, workers: Mapping[int, _Worker]) -> None:
        for worker in workers.values():
            worker.process.terminate()
        end = time.monotonic() + PATIENCE
        for worker in workers.values():
            try:
                worker.process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            _ending(worker)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM only set a flag, so that no write is broken off."""

        def tell(signum: int, stack: FrameType | None) -> None:
            self._interrupted = True

        old = {s: signal.signal(s, tell) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in old.items():
                signal.signal(signum, handler)


def _ending(worker: _Worker) -> Ending | None:
    """What a dead worker said last; closes its pipes."""
    assert worker.process.stdout is not None
    lines = worker.process.stdout.read().splitlines()
    worker.process.stdout.close()
    worker.log.close()
    try:
        return Ending(**json.loads(lines[-1]))
    except (IndexError, ValueError, TypeError):
        return None


def _tags(setup: Setup, plan: Plan) -> dict[str, str]:
    """How the search is run: commit, versions, threads, device, seed, the data's hash."""
    import platform

    import optuna
    import torch

    data = find_task(setup.task).load(0)
    return _ops_tags(setup) | {
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "optuna": optuna.__version__,
        "seed": str(setup.seed),
        "strategy": setup.strategy,
        "workers": str(plan.workers),
        "threads": str(plan.share()),
        "device": plan.device,
        "data": data.provenance,
        "data_sha256": data.sha256,
        "space_sha256": studies.space_sha(setup.space_text),
    }


def _ops_tags(setup: Setup) -> dict[str, str]:
    """The files and packages that ops came from, where any did."""
    from einspace.optable import installed

    packages = [f"{book.ops[0].name} of {book.where}" for book in installed()]
    found = {"ops_files": ", ".join(setup.ops), "ops_packages": ", ".join(packages)}
    return {name: text for name, text in found.items() if text}


def commit() -> str:
    """The commit of this code, marked when files differ from it."""
    try:
        git = subprocess.run(
            [
                "git",
                "-C",
                str(ROOT),
                "describe",
                "--always",
                "--dirty",
                "--abbrev=12",
                "--exclude=*",
            ],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return git.stdout.strip() or "unknown"
