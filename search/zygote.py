"""The warmed process: torch imported, data loaded, one step taken; it forks a child for each job.

It runs one thread, never touches CUDA and opens no database, so a fork of it is safe and costs
milliseconds instead of the seconds that importing torch takes. On CUDA (`device` not "cpu") there
is no fork: the process itself runs the jobs. `search/evaluate.py` describes the messages.
"""

import gc
import importlib
import json
import math
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from multiprocessing.connection import Connection, Pipe, wait
from typing import TYPE_CHECKING, Any

from einspace.result import Result
from grammar.errors import SpaceError, UserError
from search import limits
from search.evaluate import Job

if TYPE_CHECKING:
    from torch import nn

    from search.task import Data, Task

JOBS = 50  # jobs until a process that runs them itself is replaced
TAIL = 2000  # characters kept of a traceback
NO_MEMORY = ("can't allocate memory", "not enough memory", "bad_alloc", "out of memory")


def main(handle: str, parent: str, task_name: str, threads: str, device: str) -> None:
    """Warm up, say so, and serve jobs until the owner is gone."""
    limits.die_with(int(parent))
    limits.no_core_dump()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's to handle
    owner = Connection(int(handle))
    try:
        task, data = _load(task_name)
    except UserError as error:
        fault = next(e.__name__ for e in type(error).__mro__ if e.__module__ == "grammar.errors")
        _send(owner, {"fault": fault, "message": error.message, "hint": error.hint})
        return
    _warm_up(device)
    if device != "cpu":
        import torch

        torch.set_num_threads(int(threads))
    facts = {
        "pid": os.getpid(),
        "task": task.name,
        "provenance": data.provenance,
        "sha256": data.sha256,
        "licence": data.licence,
        "packages": sorted({name.partition(".")[0] for name in sys.modules}),
        "threads": len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 1,
    }
    # What exists now is never freed, and collecting it in a child would copy its pages.
    gc.collect()
    gc.freeze()
    try:
        _send(owner, {"ready": facts})
        serve = _fork_each if device == "cpu" else _run_each
        serve(owner, task, data, int(threads), device)
    except (EOFError, OSError):
        return  # the owner is gone


def _load(name: str) -> "tuple[Task, Data]":
    from search.tasks import find

    if name.startswith("module:"):
        task: Task = importlib.import_module(name.removeprefix("module:")).TASK
    else:
        task = find(name)
    return task, task.load(0)


def _warm_up(device: str) -> None:
    """One optimiser step through the usual layers: first calls are slow (1.9 s measured)."""
    import torch
    from torch import nn

    for name in ("einspace.load", "search.inherit", "search.train"):  # a child finds both imported
        importlib.import_module(name)
    torch.set_num_threads(1)
    state = torch.random.get_rng_state()
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(2), nn.Linear(16, 16), nn.LayerNorm(16)
    ).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    x = model(torch.zeros(2, 1, 4, 4, device=device))
    y = nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)
    target = torch.zeros(8, dtype=torch.long, device=device)
    torch.autograd.backward(nn.functional.cross_entropy(y.flatten(0, 1), target))
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    if device != "cpu":
        from search.capture import record

        torch.set_float32_matmul_precision("high")  # TF32 where autocast leaves fp32
        record(lambda: target.add_(1), torch.device(device))
    torch.random.set_rng_state(state)


def _fork_each(owner: Connection, task: "Task", data: "Data", threads: int, device: str) -> None:
    """A child for each job; messages pass through, and its end is reported last."""
    while True:
        message = _receive(owner)
        if "job" not in message:
            continue  # an answer to, or the end of, a child that has gone by itself
        ours, theirs = Pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            ours.close()
            owner.close()
            limits.die_with(parent)
            _child(theirs, Job(**message["job"]), task, data, threads)
        theirs.close()
        try:
            _send(owner, {"pid": pid})
            _relay(owner, ours, pid)
        except (EOFError, OSError):
            os.kill(pid, signal.SIGKILL)
            raise
        ours.close()
        _send(owner, {"exit": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])})


def _relay(owner: Connection, child: Connection, pid: int) -> None:
    """Pass messages both ways until the child has closed its end."""
    while True:
        for source in wait([owner, child]):
            if source is owner:
                message = _receive(owner)
                if "stop" in message:
                    os.kill(pid, signal.SIGKILL)
                else:
                    try:
                        _send(child, message)
                    except OSError:
                        return
            else:
                try:
                    content = child.recv_bytes()
                except (EOFError, OSError):
                    return
                owner.send_bytes(content)


def _child(owner: Connection, job: Job, task: "Task", data: "Data", threads: int) -> None:
    """What a fork does; it never returns."""
    code = 1
    try:
        import torch

        signal.signal(signal.SIGINT, signal.SIG_IGN)
        torch.set_num_threads(job.threads or threads)
        if job.memory_bytes is not None:
            limits.limit_memory(job.memory_bytes)
        result = _run(owner, job, task, data, "cpu")
        spent = {**result.metrics, "process_seconds": time.process_time()}  # since the fork
        _send(owner, {"result": asdict(replace(result, metrics=spent))})
        code = 0
    finally:
        os._exit(code)


def _run_each(owner: Connection, task: "Task", data: "Data", threads: int, device: str) -> None:
    """Job after job in this process, which says when it is the last."""
    import torch

    from search.capture import BROKEN

    trained, last = 0, False
    while not last:
        message = _receive(owner)
        while "job" not in message:
            message = _receive(owner)
        job = Job(**message["job"])
        _send(owner, {"pid": os.getpid()})
        torch.set_num_threads(job.threads or threads)
        if not job.proxy:
            total = torch.cuda.get_device_properties(device).total_memory
            share = 1.0 if job.memory_bytes is None else min(1.0, job.memory_bytes / total)
            torch.cuda.set_per_process_memory_fraction(share, device)
        result = _run(owner, job, task, data, device)
        if not job.proxy:  # which uses the processor alone and spoils nothing on the card
            trained += 1
            fit = result.status in ("ok", "pruned") and BROKEN not in result.engine
            last = not fit or trained == JOBS
        _send(owner, {"result": asdict(result)})
        _send(owner, {"exit": 0, "last": last})


def _run(owner: Connection, job: Job, task: "Task", data: "Data", device: str) -> Result:
    """Build and train the candidate; its faults become a Result."""
    import torch

    from einspace.load import load
    from search.inherit import take
    from search.train import peak_memory, train

    before = peak_memory()

    def costs() -> dict[str, float]:
        return _costs(job.costs, model, data, device, before) if job.costs else {}

    def report(epoch: int, value: float) -> bool:
        found = costs() if epoch in job.rungs else {}
        _send(owner, {"report": [epoch, value], "costs": found})
        return bool(_receive(owner)["answer"])

    warnings.simplefilter("ignore")  # the owner's terminal shows a table
    try:
        torch.manual_seed(job.seed)
        model = load(job.source)()
        if job.proxy:
            return _scored(job, model, task, data)
        inherited, fault = take(model, job.estate, job.matched) if job.estate else (0, "")
        result = train(
            model,
            task,
            data,
            seed=job.seed,
            epochs=job.epochs,
            lr=job.lr,
            weight_decay=job.weight_decay,
            device=device,
            report=report,
            measure="val" if job.split == "search" else "test",
            eager=job.eager,
        )
        if result.status in ("ok", "pruned"):
            result = replace(result, metrics={**costs(), **result.metrics})
        if job.bequest:
            result = _handed_down(result, model, job.bequest, inherited, fault)
        if job.weights and result.status == "ok":
            from safetensors.torch import save_file

            state = model.state_dict()
            save_file(
                {name: value.contiguous().cpu() for name, value in state.items()}, job.weights
            )
        return result
    except SpaceError as error:
        return Result("invalid", error=error.render())
    except MemoryError:
        return Result("oom", error="no memory left within the limit of this trial")
    except Exception as error:  # noqa: BLE001  # the trial runner turns every fault into a Result
        if isinstance(error, torch.OutOfMemoryError) or _no_memory(error):
            return Result("oom", error=str(error)[:TAIL])
        return Result("bug", error=traceback.format_exc()[-TAIL:])


def _scored(job: Job, model: "nn.Module", task: "Task", data: "Data") -> Result:
    """A proxy of the model as it would start to train; no metric where it does not exist.

    On the CPU also where training is not: `synflow` wants float64, kernels are no functions that it
    could replace, one batch is small, and a search ranks the same on every machine.
    """
    from search.proxies import PROXIES
    from search.train import first_batch

    x, y = first_batch(task, data, seed=job.seed, device="cpu")
    found = PROXIES[job.proxy](model, x, y, task.loss)
    return Result("ok", metrics={"proxy": found} if math.isfinite(found) else {})


def _costs(
    names: Sequence[str], model: "nn.Module", data: "Data", device: str, before: int
) -> dict[str, float]:
    """The costs named of a model as it is now: latencies in seconds, `peak_bytes` since then."""
    import torch

    from search.latency import decode_latency, latency
    from search.train import peak_memory

    found: dict[str, float] = {}
    if "peak_bytes" in names:
        cuda = device != "cpu"
        grown = torch.cuda.max_memory_allocated(device) if cuda else peak_memory() - before
        found["peak_bytes"] = float(grown)
    if "latency" in names:
        found["latency"] = latency(model, data.val.x[:1].to(device))
    if "decode_latency" in names:
        found["decode_latency"] = decode_latency(model, data.val.x[:1].to(device))
    return found


def _handed_down(
    result: Result, model: "nn.Module", path: str, inherited: int, fault: str
) -> Result:
    """The result with what was inherited; weights worth having are left for children."""
    from search.inherit import leave

    if result.status in ("ok", "pruned"):
        leave(model, path)
    metrics = {**result.metrics, "inherited": float(inherited)}
    return replace(result, metrics=metrics, error="; ".join(filter(None, (result.error, fault))))


def _no_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(mark in text for mark in NO_MEMORY)


def _send(connection: Connection, message: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(message).encode())


def _receive(connection: Connection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(connection.recv_bytes())
    return message
