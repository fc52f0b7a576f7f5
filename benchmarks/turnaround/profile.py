"""The kernels of one captured step: which there are, how often, how long; what runs between."""

import json
from collections import defaultdict
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from benchmarks.turnaround.methods import DECAY, Kit, build, feed_of, rates, rows_of, step_seconds
from search.capture import Captured

REPLAYS = 5


def profile(rows: str, out: Path, folder: Path | None) -> None:
    """Print and save the kernel table of each row (`size/name`, commas between)."""
    device, kit = torch.device("cuda:0"), Kit(folder)
    torch.backends.cuda.matmul.allow_tf32 = True
    for row in rows.split(","):
        size, name = row.split("/")
        model = build(kit.source((size, name)), device, kernels=True)
        feed = feed_of(size, rows_of(size, device), device, kernels=True)
        engine = Captured(model, feed, rates(), weight_decay=DECAY, device=device)
        step = step_seconds(_from_start(engine))
        table = _table(engine)
        engine.release()
        busy = sum(seconds for _, seconds in table.values())
        count = sum(n for n, _ in table.values())
        print(
            f"\n{row}: step {step * 1e3:.3f} ms; {count:.0f} kernels, {busy * 1e3:.3f} ms in them, "
            f"{(step - busy) / max(count, 1) * 1e6:.2f} us between two",
            flush=True,
        )
        ordered = sorted(table.items(), key=lambda item: -item[1][1])
        for kernel, (n, seconds) in ordered[:45]:
            print(f"{seconds * 1e6:9.1f} us {100 * seconds / busy:5.1f}% {n:6.1f}x  {kernel[:130]}")
        found = {"row": row, "step": step, "kernels": count, "busy": busy, "table": ordered}
        path = out / f"profile-{size}-{name}.json"
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _from_start(engine: Captured):  # type: ignore[no-untyped-def]  # a closure for step_seconds
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
