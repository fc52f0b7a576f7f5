"""What the operating system enforces on a child: memory, death with its parent, and who it is.

Memory and parent death are Linux's; elsewhere both functions say False and the caller goes on.
A process is named by its number *and* start time, since numbers are used again.
"""

import ctypes
import os
import resource
import signal
import sys

import psutil

PR_SET_PDEATHSIG = 1


def limit_memory(extra: int) -> bool:
    """Let this process take at most `extra` bytes of private memory more than it has now.

    The limit is on writable private mappings (RLIMIT_DATA): unlike address space it does not
    count code, nor what an allocator only reserves.
    """
    if sys.platform != "linux":
        return False
    ceiling = _private_bytes() + extra
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        ceiling = min(ceiling, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (ceiling, hard))
    return True


def _private_bytes() -> int:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    return 0


def die_with(parent: int) -> bool:
    """Have the kernel kill this process when `parent`, which started it, is gone.

    Linux sends the signal when the *thread* that started this process ends, so whoever starts a
    child with this call does so from a thread that lives as long as the child should.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        return False
    if os.getppid() != parent:  # it went before the call
        os._exit(1)
    return True


def no_core_dump() -> None:
    """A crash of this process leaves no core file."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def process_start_time(pid: int) -> float | None:
    """Seconds since the epoch at which the process started; None when there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def is_alive(pid: int, start: float) -> bool:
    """Whether the process that started then still runs; a zombie does not."""
    try:
        process = psutil.Process(pid)
        # Clocks are adjusted: the same process may read a little differently later.
        same = abs(process.create_time() - start) < 1.0
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
