"""The kernels of one captured step: which there are, how often, how long; what runs between."""

import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from benchmarks.turnaround.methods import (
    DECAY,
    Kit,
    build,
    feed_of,
    interface_of,
    rates,
    rows_of,
    step_seconds,
)
from search.capture import Captured

REPLAYS = 5
NOISE = re.compile(r"void |at::native::|\(anonymous namespace\)::|std::array<char\*, \dul>|__nv_")


def profile(rows: str, out: Path, folder: Path | None, text: str) -> None:
    """Print and save the kernel table of each row (`size/name`, commas between), or of `text` in
    the shapes of a size."""
    torch.backends.cuda.matmul.allow_tf32 = True
    for row in rows.split(","):
        try:
            size, name = row.split("/")
            found = _profiled(size, _source(size, name, Kit(folder), text))
        except Exception as error:  # noqa: BLE001  # the next row may work
            print(f"\n{row}: FAILED {type(error).__name__}: {str(error)[:300]}", flush=True)
            continue
        _show(row, found)
        path = out / f"profile-{size}-{name}.json"
        path.write_text(json.dumps({"row": row, **found}, indent=1), encoding="utf-8")


def _source(size: str, name: str, kit: Kit, text: str) -> str:
    if not text:
        return kit.source((size, name))
    from einspace.compile import compile_text

    return compile_text(text, interface_of(size)).source


def _profiled(size: str, source: str) -> dict[str, Any]:
    device = torch.device("cuda:0")
    model = build(source, device, kernels=True)
    feed = feed_of(size, rows_of(size, device), device, kernels=True)
    engine = Captured(model, feed, rates(), weight_decay=DECAY, device=device)
    step = step_seconds(_from_start(engine))
    table = _table(engine)
    engine.release()
    busy = sum(seconds for _, seconds in table.values())
    count = sum(times for times, _ in table.values())
    ordered = sorted(table.items(), key=lambda item: -item[1][1])
    return {"step": step, "kernels": count, "busy": busy, "table": ordered}


def _show(row: str, found: dict[str, Any]) -> None:
    step, busy, count = found["step"], found["busy"], found["kernels"]
    print(
        f"\n{row}: step {step * 1e3:.3f} ms; {count:.0f} kernels, {busy * 1e3:.3f} ms in them, "
        f"{(step - busy) / max(count, 1) * 1e6:.2f} us between two",
        flush=True,
    )
    for kernel, (times, seconds) in found["table"][:40]:
        name = NOISE.sub("", kernel)[:150]
        print(f"{seconds * 1e6:9.1f} us {100 * seconds / busy:5.1f}% {times:6.1f}x  {name}")


def _from_start(engine: Captured) -> Callable[[int], None]:
    def run(count: int) -> None:
        engine.place.zero_()
        engine.replay(count)

    return run


def _table(engine: Captured) -> dict[str, tuple[float, float]]:
    """Kernel name -> (times a step, seconds a step)."""
    engine.place.zero_()
    torch.cuda.synchronize()
    with profiler(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        engine.replay(REPLAYS)
        torch.cuda.synchronize()
    table: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for event in found.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            table[event.name][0] += 1 / REPLAYS
            table[event.name][1] += event.time_range.elapsed_us() / 1e6 / REPLAYS
    return {name: (count, seconds) for name, (count, seconds) in table.items()}
