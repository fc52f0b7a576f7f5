"""Leases: who runs a trial, and how a dead worker's trial is found and given back.

Optuna's ask and tell have no heartbeat. A running trial carries `nas.lease` (host, pid, process
start, last beat). On the same host the process table answers at once; for another host a lease
without a beat for `STALE` seconds is dead. A reaped trial ends as `killed` and is tried again.
"""

import os
import platform
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState

from grammar.errors import StudyError
from search.study import Ledger

BEAT = 15.0
STALE = 60.0


@dataclass(frozen=True, slots=True)
class Lease:
    """`start` is the process's start in clock ticks since boot: a pid alone may be reused."""

    host: str
    pid: int
    start: float
    beat: float


def host_name() -> str:
    """This host, this boot and this process namespace: where a pid means something."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        return platform.node()
    return f"{platform.node()}/{boot}/{space}"


def process_start(pid: int) -> float | None:
    """When process `pid` started; None if it is gone or only waits to be buried."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if stat[0] in "ZX" else float(stat[19])
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def own_lease() -> Lease:
    """The lease of this process, with a beat of now."""
    pid = os.getpid()
    return Lease(host_name(), pid, process_start(pid) or 0.0, time.time())


def is_dead(lease: Lease, now: float) -> bool:
    """Whether the holder is gone."""
    if lease.host == host_name():
        return process_start(lease.pid) != lease.start
    return now - lease.beat > STALE


def _holder(trial: FrozenTrial) -> Lease | None:
    stored = trial.user_attrs.get("nas.lease")
    return Lease(**stored) if stored else None


def reap(ledger: Ledger, now: float | None = None) -> list[int]:
    """Ends the running trials of dead workers as `killed`; gives their numbers.

    The caller holds the claim lock.
    """
    now = time.time() if now is None else now
    reaped = []
    for trial in ledger.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        lease = _holder(trial)
        if lease is None:  # Made by another program: nothing is known but its age.
            start = trial.datetime_start
            dead = start is None or now - start.timestamp() > STALE
        else:
            dead = is_dead(lease, now)
        if dead and give_back(ledger, trial.number, "died", "its worker died"):
            reaped.append(trial.number)
    return reaped


def give_back(ledger: Ledger, number: int, reaped: str, error: str) -> bool:
    """Ends a running trial as `killed`, to be tried again; False if it had ended by itself."""
    try:
        ledger.note(number, status="killed", error=error, reaped=reaped)
        ledger.study.tell(number, state=TrialState.FAIL)
    except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
        return False
    return True


class Beat:
    """Renews the lease of a trial from a thread, while the trial runs."""

    def __init__(self, ledger: Ledger, number: int, every: float = BEAT) -> None:
        self._ledger, self._number, self._every = ledger, number, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beat", daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self._ledger.note(self._number, lease=asdict(own_lease()))
            except optuna.exceptions.UpdateFinishedTrialError:
                return
            except (OSError, StudyError, optuna.exceptions.StorageInternalError):
                continue  # A full disk or a lost connection: the next beat may succeed.

    def __enter__(self) -> "Beat":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
