"""Trials an hour on one GPU: small models, several at a time, in processes and on streams.

A trial is text to 500 trained steps. A layout `PxS` is P processes with S threads each, every
thread on a stream of its own; `eager:8x1` are processes of plain eager training. A layout is
measured over a window that opens when every process has finished a trial of warm-up; a trial counts
by the share of it that lies in the window.
"""

import json
import multiprocessing
import queue
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from benchmarks.turnaround.methods import (
    DECAY,
    STEPS,
    Kit,
    build,
    feed_of,
    rates,
    rows_of,
)
from benchmarks.turnaround.texts import texts
from search.capture import Captured
from search.train import Eager

LAYOUTS = "1x1,2x1,4x1,8x1,1x2,1x4,1x8,2x4,4x2,eager:1x1,eager:8x1"
START = 120.0  # seconds until all processes must be warm
SMALL = [key for key in texts() if key[0] == "small"]


def _trial(
    number: int, method: str, kit: Kit, rows: Any, device: torch.device, lock: Any, alone: bool
) -> None:
    key = SMALL[number % len(SMALL)]
    engine: Captured | Eager
    with lock:  # One capture at a time in a process.
        model = build(kit.source(key), device, kernels=method == "captured")
        feed = feed_of("small", rows, device, kernels=method == "captured")
        if method == "captured":
            engine = Captured(model, feed, rates(), weight_decay=DECAY, device=device, alone=alone)
        else:
            engine = Eager(model, feed, rates(), DECAY, method)
            model.train()
    for losses in engine.run(STEPS):
        float(losses.sum())
    with lock:
        engine.release()


def _work(
    index: int,
    streams: int,
    method: str,
    folder: Path | None,
    seconds: float,
    barrier: Any,
    told: Any,
) -> None:
    """A process: warm up, meet the others, train until the window is over, tell every trial."""
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = True
    device, kit = torch.device("cuda:0"), Kit(folder)
    rows, lock = rows_of("small", device), threading.Lock()
    spans: list[tuple[float, float]] = []
    errors: list[str] = []
    opened = threading.Event()
    limit = [0.0]

    def thread(at: int) -> None:
        number = 5 * index + 3 * at
        with torch.cuda.stream(torch.cuda.Stream()) if streams > 1 else nullcontext():
            try:
                while not opened.is_set() or time.time() < limit[0]:
                    start = time.time()
                    _trial(number, method, kit, rows, device, lock, streams == 1)
                    spans.append((start, time.time()))
                    number += 1
            except Exception as error:  # noqa: BLE001  # told with the layout's row
                errors.append(f"{type(error).__name__}: {str(error)[:200]}")

    _trial(index, method, kit, rows, device, lock, True)
    barrier.wait(START)
    limit[0] = time.time() + seconds
    opened.set()
    threads = [threading.Thread(target=thread, args=(at,)) for at in range(streams)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    told.put((limit[0] - seconds, limit[0], spans, errors))


def _told(told: Any, children: list[Any], deadline: float) -> list[Any]:
    """What every process tells. Raises: RuntimeError as soon as one has died without a word."""
    found: list[Any] = []
    while len(found) < len(children):
        try:
            found.append(told.get(timeout=1.0))
        except queue.Empty:
            if time.time() > deadline or any(c.exitcode for c in children):
                raise RuntimeError(f"exit codes {[c.exitcode for c in children]}") from None
    return found


def measure(layout: str, folder: Path | None, seconds: float) -> dict[str, Any]:
    """Trials an hour of one layout."""
    method, _, size = layout.rpartition(":")
    processes, streams = map(int, size.split("x"))
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(processes), context.Queue()
    method = method or "captured"
    children = [
        context.Process(
            target=_work,
            args=(i, streams, method, folder, seconds, barrier, told),
            daemon=True,
        )
        for i in range(processes)
    ]
    for child in children:
        child.start()
    try:
        found = _told(told, children, time.time() + START + 4 * seconds)
    finally:
        for child in children:
            child.join(10)
            child.terminate()
    begin, end = max(f[0] for f in found), min(f[1] for f in found)
    shares = [max(0.0, min(b, end) - max(a, begin)) / (b - a) for f in found for a, b in f[2]]
    lengths = [b - a for f in found for a, b in f[2]]
    return {
        "layout": layout,
        "hourly": 3600 * sum(shares) / (end - begin),
        "trial_seconds": sum(lengths) / max(1, len(lengths)),
        "trials": len(lengths),
        "errors": [e for f in found for e in f[3]],
    }


def hourly(out: Path, folder: Path | None, layouts: str, seconds: float) -> None:
    """Print a line a layout and save all."""
    path = out / "hourly.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    print(f"{'layout':<12}{'trials/h':>10}{'s a trial':>11}{'trials':>8}", flush=True)
    for layout in (layouts or LAYOUTS).split(","):
        try:
            row = measure(layout, folder, seconds)
        except Exception as error:  # noqa: BLE001  # the next layout may work
            row = {"layout": layout, "errors": [f"{type(error).__name__}: {error}"[:200]]}
        rows.append(row)
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        hour, each = row.get("hourly", 0.0), row.get("trial_seconds", 0.0)
        print(
            f"{layout:<12}{hour:>10.0f}{each:>11.2f}{row.get('trials', 0):>8}  "
            + "; ".join(row["errors"][:2]),
            flush=True,
        )
