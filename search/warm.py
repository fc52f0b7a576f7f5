"""Warm: the kernels of a space compiled ahead, in parallel, into Triton's cache on disk.

A kernel is compiled once a shape class, not once an architecture (`einspace/load.py`), so a sample
of a space meets nearly all that its search will need. Each architecture takes one captured training
step and one pass of validation on real batches, in one of several processes; what Triton compiled
and what it found on disk comes from its own compilation listener. The kernels stay where Triton
keeps them (`TRITON_CACHE_DIR`, else `~/.triton/cache`), one folder for each device and version.
"""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from einspace.candidates import frame, sample
from einspace.compile import Compiled, compile_text
from einspace.library import shipped
from grammar.errors import StudyError
from search.tasks import find

if TYPE_CHECKING:
    from search.task import Task

TRIES = 20  # draws for each architecture that is to be new


@dataclass(frozen=True, slots=True)
class Warmed:
    """One architecture: kernels compiled and found on disk, by hash and name; how it trained."""

    text: str
    compiled: Mapping[str, str]
    found: Mapping[str, str]
    seconds: float
    engine: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """What a process is told of one architecture."""

    text: str
    source: str
    eager: str


def chosen(space_text: str, task: "Task", count: int, seed: int) -> list[Compiled]:
    """`count` different architectures of the space, and the shipped seeds of its task.

    Raises: SpaceError, StudyError.
    """
    budget = task.budget
    place = frame(
        space_text, task.interface, max_params=budget.max_params, max_flops=budget.max_flops
    )
    rng = random.Random(seed)
    found: dict[str, Compiled] = {}
    for _ in range(TRIES * count):
        if len(found) == count:
            break
        drawn = sample(place, rng)
        if drawn.hash not in found:
            found[drawn.hash] = compile_text(drawn.text, task.interface)
    for row in shipped("seeds").values():
        if row.task == task.name:
            seed_net = compile_text(row.text, task.interface)
            found.setdefault(seed_net.hash, seed_net)
    return list(found.values())


def warm(nets: Sequence[Compiled], task: str, *, device: str, processes: int) -> Iterator[Warmed]:
    """Takes a step of each in `processes` at once; gives each as it is done.

    Raises: StudyError where a process dies.
    """
    jobs = [Job(net.text, net.source, net.eager) for net in nets]
    context = get_context("spawn")  # CUDA does not survive a fork.
    with ProcessPoolExecutor(min(processes, len(jobs)), context) as pool:
        pending = [pool.submit(take_step, job, task, device) for job in jobs]
        try:
            for done in as_completed(pending):
                yield done.result()
        except BrokenProcessPool:
            raise StudyError(
                "a process that compiled kernels has died",
                hint="what it had finished is on disk; run it again with fewer --processes",
            ) from None


@cache
def _data(task: str, device: str) -> Any:
    import torch

    from search.train import move

    if device != "cpu":
        torch.set_float32_matmul_precision("high")  # as in the processes that train
    data = find(task).load(0)
    where = torch.device(device)
    return move(data.train, where), move(data.val, where)


def take_step(job: Job, task: str, device: str) -> Warmed:
    """One training step and one pass of validation, watched; a fault is told, not raised."""
    import torch

    from einspace.load import load
    from search.feed import Feed
    from search.task import Split
    from search.train import averages, engine_of

    goal, where = find(task), torch.device(device)
    train, held_out = _data(task, device)
    compiled: dict[str, str] = {}
    found: dict[str, str] = {}
    start, engine, error = time.perf_counter(), "", ""
    with _listening(compiled, found):
        try:
            torch.manual_seed(0)
            model = load(job.source)().to(where)
            feed = Feed(goal, train, torch.Generator(where).manual_seed(0))
            trainer = engine_of(model, feed, [1e-3, 1e-3], 0.01, where, job.eager)
            engine = trainer.said
            for losses in trainer.run(1):
                losses.sum().item()
            size = goal.budget.batch * 4
            averages(model, goal, Split(held_out.x[:size], held_out.y[:size]), size)
            trainer.release()
        except Exception as fault:  # noqa: BLE001  # a candidate's fault is the report's line
            error = f"{type(fault).__name__}: {str(fault)[:200]}"
    return Warmed(job.text, compiled, found, time.perf_counter() - start, engine, error)


class _listening:
    """Triton tells what it compiles (into the first) and finds on disk (into the second)."""

    def __init__(self, compiled: dict[str, str], found: dict[str, str]) -> None:
        self.compiled, self.found = compiled, found

    def __call__(self, *, metadata: Mapping[str, Any], cache_hit: bool, **more: object) -> None:
        key = str(metadata["hash"])
        (self.found if cache_hit else self.compiled)[key] = str(metadata["name"])

    def __enter__(self) -> None:
        self._set(self)

    def __exit__(self, *error: object) -> None:
        self._set(None)

    @staticmethod
    def _set(listener: "_listening | None") -> None:
        try:
            from triton import knobs
        except ImportError:
            return
        knobs.compilation.listener = listener


def summary(rows: Sequence[Warmed], seconds: float) -> dict[str, object]:
    """What came of it, as JSON shows it."""
    compiled = {key: name for row in rows for key, name in row.compiled.items()}
    found = {key: name for row in rows for key, name in row.found.items()}
    eager = {row.text: row.engine for row in rows if row.engine.startswith("eager")}
    return {
        "architectures": len(rows),
        "kernels": len(compiled | found),
        "compiled": len(compiled),
        "hits": sum(len(row.found) for row in rows),
        "names": sorted({*compiled.values(), *found.values()}),
        "seconds": round(seconds, 2),
        "compiling_seconds": round(sum(row.seconds for row in rows if row.compiled), 2),
        "eager": eager,
        "failed": {row.text: row.error for row in rows if row.error},
    }
