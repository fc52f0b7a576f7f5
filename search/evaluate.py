"""Evaluate: run a job in a child of a warmed process, under limits; always come back with a Result.

On the CPU the *zygote* (`search/zygote.py`) imports torch and loads the data once, and forks a
child for each job. On CUDA, which a fork cannot inherit, one process runs job after job and is
replaced after a failure or 50 jobs. Messages are JSON over a socket pair; the process that owns
the `Evaluator` imports no torch and keeps the clock.

    owner -> zygote   {"job"} {"answer": prune?} {"stop"}
    zygote -> owner   {"ready"} {"pid"} {"report": [epoch, value], "costs"} {"result"} {"exit"}
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from einspace.result import Result
from grammar.errors import DataError, OpError, SpaceError, StudyError, UserError

if TYPE_CHECKING:
    from search.task import Task

Report = Callable[[int, float], bool]
START = 120.0  # seconds until a process must be ready
GRACE = 5.0  # seconds between asking for a child's end and ending its parent
FAULTS: dict[str, type[UserError]] = {
    e.__name__: e for e in (DataError, OpError, SpaceError, StudyError)
}


@dataclass(frozen=True, slots=True)
class Job:
    """One training: emitted source and everything that decides its outcome.

    `split`: "search" trains on train and measures validation each epoch; "final" trains on both and
    reads the test part once. `memory_bytes` is what the trial may take beyond the warmed process,
    `wall_seconds` leaves out the time spent in the owner's `report`. `weights`: where to write the
    trained state as safetensors ("": nowhere). `bequest`, `estate`, `matched`: where to leave the
    weights for children, where the parent's lie, which modules correspond (`search/inherit.py`).
    `threads`: None means the evaluator's. `costs` (`search.objectives.MEASURED`) are measured on
    the model at its end and after the epochs in `rungs`. `proxy`: nothing is trained, and the
    result's one metric is this score of the untrained model on its first batch, where it exists.
    `eager`: why no CUDA graph should be tried ("": try).
    """

    source: str
    seed: int
    epochs: int
    lr: float
    weight_decay: float
    threads: int | None = None
    wall_seconds: float | None = None
    memory_bytes: int | None = None
    split: Literal["search", "final"] = "search"
    weights: str = ""
    bequest: str = ""
    estate: str = ""
    matched: tuple[tuple[int, int], ...] = ()
    costs: tuple[str, ...] = ()
    rungs: tuple[int, ...] = ()
    proxy: str = ""
    eager: str = ""


@dataclass(frozen=True, slots=True)
class Ready:
    """What a warmed process says of itself."""

    pid: int
    task: str
    provenance: str
    sha256: str
    licence: str
    packages: tuple[str, ...]
    threads: int


class _Gone(Exception):
    """The other process has ended."""


class Evaluator:
    """Owns a warmed process for one task; a context manager.

    Enter it in a thread that lives as long as the evaluator, before a database is opened. The
    process starts at once and warms up while the caller goes on; `ready()` waits for it.
    """

    def __init__(self, task: "str | Task", threads: int = 1, device: str = "cpu") -> None:
        self.task = task if isinstance(task, str) else task.ref or _module_of(task)
        self.threads, self.device = threads, device
        self.child: int | None = None
        self.costs: Mapping[str, float] = {}  # measured at the latest rung of the running job
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._ready: Ready | None = None

    def __enter__(self) -> "Evaluator":
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the warmed process and its child."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._connection = self._ready = self.child = None

    def ready(self) -> Ready:
        """Wait until the process is warm.

        Raises: DataError, SpaceError or StudyError if the task cannot be loaded; RuntimeError if
        the process ends before it is ready.
        """
        if self._ready is None:
            if self._process is None:
                self._start()
            try:
                message = self._receive(START)
            except _Gone as gone:
                self.close()
                raise RuntimeError("the evaluation process ended while it started") from gone
            if message is None or "ready" not in message:
                self.close()
                if message is None:
                    raise RuntimeError(f"the evaluation process was not ready in {START:g} s")
                raise FAULTS[message["fault"]](message["message"], hint=message["hint"])
            fields = message["ready"]
            self._ready = Ready(**{**fields, "packages": tuple(fields["packages"])})
        return self._ready

    def run(self, job: Job, report: Report | None = None) -> Result:
        """Train one candidate; `report(epoch, value)` answers whether to prune.

        Every fault of the candidate is a Result. An exception in `report` ends the child and is
        passed on. Raises: what `ready` raises.
        """
        self.ready()
        try:
            return self._converse(job, report)
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            environment = os.environ | {
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
                # Idle threads of a maths library would make forking unsafe.
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "MKL_NUM_THREADS": "1",
            }
            if self.device == "cpu":
                environment["CUDA_VISIBLE_DEVICES"] = ""
            arguments = (theirs.fileno(), os.getpid(), self.task, self.threads, self.device)
            code = "import sys; from search.zygote import main; main(*sys.argv[1:])"
            # -P: the current folder, which may hold anything, is no place to import from.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code, *map(str, arguments)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
            )
        self._connection = Connection(ours.detach())

    def _converse(self, job: Job, report: Report | None) -> Result:
        deadline = None if job.wall_seconds is None else time.monotonic() + job.wall_seconds
        result: Result | None = None
        stopped = False
        try:
            self._send({"job": asdict(job)})
            while True:
                message = self._receive(deadline and deadline - time.monotonic())
                if message is None:
                    self._end(last=stopped)
                    stopped, deadline = True, time.monotonic() + GRACE
                elif "pid" in message:
                    self.child = message["pid"]
                elif "report" in message:
                    before = time.monotonic()
                    self.costs = message["costs"]
                    prune = not stopped and report is not None and report(*message["report"])
                    self._send({"answer": prune})
                    deadline = deadline and deadline + time.monotonic() - before
                elif "result" in message:
                    result = _result(message["result"])
                elif "exit" in message:
                    self.child = None
                    if message.get("last"):
                        self.close()
                        self._start()
                    return result or _death(message["exit"], stopped, job)
        except _Gone:
            code = self._process.wait() if self._process else -signal.SIGKILL
            self.close()
            self._start()
            return result or _death(code, stopped, job)

    def _end(self, *, last: bool) -> None:
        """End the child; on CUDA, or when the zygote did not heed us, the process itself."""
        assert self._process is not None
        if self.device != "cpu" or last:
            self._process.kill()
        else:
            self._send({"stop": True})

    def _send(self, message: dict[str, Any]) -> None:
        assert self._connection is not None
        try:
            self._connection.send_bytes(json.dumps(message).encode())
        except OSError as error:
            raise _Gone from error

    def _receive(self, timeout: float | None) -> dict[str, Any] | None:
        """The next message, or None when the time is up."""
        assert self._connection is not None
        try:
            if not self._connection.poll(timeout if timeout is None else max(0.0, timeout)):
                return None
            message: dict[str, Any] = json.loads(self._connection.recv_bytes())
            return message
        except (EOFError, OSError) as error:
            raise _Gone from error


def _module_of(task: "Task") -> str:
    """`module:` and the module whose `TASK` this is: functions cannot be sent to a process."""
    for name, module in sys.modules.items():
        if getattr(module, "TASK", None) is task:
            return f"module:{name}"
    raise ValueError(f"task {task.name!r} is not the TASK of a module")


def _result(fields: dict[str, Any]) -> Result:
    curves = {name: tuple(points) for name, points in fields["curves"].items()}
    return Result(**{**fields, "curves": curves})


def _death(code: int, stopped: bool, job: Job) -> Result:
    """What became of a child that left no result; `code` < 0 is a signal."""
    if stopped:
        return Result("timeout", error=f"stopped after {job.wall_seconds:g} s")
    if code < 0:
        return Result("killed", error=f"ended by {signal.Signals(-code).name}")
    return Result("bug", error=f"the process ended with code {code} and no result")
