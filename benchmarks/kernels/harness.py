"""Rows of kernels beside their peers: checked against float64 first, then timed in one run.

    einspace bench kernels -- [--engines chunked,sparse] [--names lightning] [--mode fwd] \
        [--minutes 9] [--out build/kernels]

A row is one problem in one mode. `ours` is checked on `small(seed)` inputs, output and the gradient
of every input that wants one, by ||out - ref|| / ||ref|| against `reference` in float64; a row that
is wrong is not timed. Then ours and every peer are captured as CUDA graphs that walk over several
sets of inputs (together beyond the L2 cache) and replayed; what cannot be captured is timed with
events and marked `*`. Times are medians in ms. The floor of a row is the larger of its bytes over
the copy bandwidth and its FLOPs over the matmul rate, both measured at the start of the run.
Every finished row is a line of `<out>/rows.jsonl`; the same command goes on where it stopped.

`--warm 8` first calls every kernel of the chosen rows once, in 8 processes: what compiles only (as
FlexAttention does, five to ten seconds a row) then finds its caches on disk. Not for peers that
tune themselves by timing, such as fla: they would time each other.
"""

import argparse
import importlib
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

ENGINES = ("chunked", "diagonal", "delta", "sparse", "rows", "scan", "dense")
SDPA = "torch's SDPA"  # the note of a row in which ours is torch's own attention
Kernel = Callable[..., Tensor]
TOLERANCE = 1.5e-2  # bf16 operands, fp32 accumulation
L2 = 60e6
TIME = 0.15  # seconds a measurement


@dataclass(frozen=True)
class Row:
    """One problem; `flops` and `bytes` are the least that its mode needs (fwd or fwd and bwd).

    `flops` may be a function, where counting takes time.

    `mode` "fwd+bwd": the gradients of all floating inputs that require one are taken. A peer that
    is known to fail is left out of `peers` with the reason in `note`. `warm` is called once before
    the peers (to reset compilers, say).
    """

    engine: str
    name: str
    mode: str
    inputs: Callable[[int], tuple[Tensor, ...]]
    small: Callable[[int], tuple[Tensor, ...]]
    ours: Kernel
    reference: Kernel
    flops: float | Callable[[], float]
    bytes: float
    peers: Mapping[str, Kernel] = field(default_factory=dict)
    note: str = ""
    tolerance: float = TOLERANCE
    warm: Callable[[], None] | None = None

    @property
    def key(self) -> str:
        return f"{self.engine}/{self.name}/{self.mode}"


def _wanted(inputs: Sequence[Tensor]) -> list[Tensor]:
    return [x for x in inputs if x.requires_grad]


def call(kernel: Kernel, inputs: Sequence[Tensor], mode: str, seed: Tensor | None) -> list[Tensor]:
    """The output, and in fwd+bwd the gradients; `seed` is the gradient of the output."""
    if mode == "fwd":
        with torch.no_grad():
            return [kernel(*inputs)]
    y = kernel(*inputs)
    return [y, *torch.autograd.grad(y, _wanted(inputs), seed)]


def error(row: Row) -> float:
    """The largest relative error of ours against float64, over output and gradients."""
    inputs = row.small(0)
    exact = [
        x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x
        for x in inputs
    ]
    with torch.no_grad():
        like = row.reference(*exact)
    generator = torch.Generator(like.device).manual_seed(1)
    seed = torch.randn(like.shape, generator=generator, device=like.device, dtype=torch.float64)
    out_type = row.ours(*inputs).dtype
    want = call(row.reference, exact, row.mode, seed.to(out_type).double())
    got = call(row.ours, inputs, row.mode, seed.to(out_type))
    worst = 0.0
    for a, e in zip(got, want, strict=True):
        gap = float((a.detach().double() - e.detach()).norm() / e.detach().norm().clamp_min(1e-30))
        worst = max(worst, gap if math.isfinite(gap) else math.inf)
    return worst


def timed(kernel: Kernel, sets: Sequence[Sequence[Tensor]], mode: str) -> tuple[float, bool]:
    """(median ms of one call, whether it was captured)."""
    with torch.no_grad():
        seed = None if mode == "fwd" else torch.randn_like(kernel(*sets[0]))

    def sweep() -> None:
        for inputs in sets:
            call(kernel, inputs, mode, seed)

    for _ in range(3):
        sweep()
    torch.cuda.synchronize()
    run, captured = sweep, False
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            sweep()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            sweep()
        run, captured = graph.replay, True
    except RuntimeError:
        torch.cuda.synchronize()
    return _median(run) / len(sets), captured


def _median(run: Callable[[], object]) -> float:
    """Median ms of `run`, by events, over about `TIME` seconds and at least five calls."""
    times: list[float] = []
    run()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - begin < TIME and len(times) < 200):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Bytes read and written a second by a copy of 2 GiB."""
    source = torch.empty(2**31, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (_median(lambda: target.copy_(source)) * 1e-3)


def matmul_rate(n: int = 8192) -> float:
    """FLOP a second of a square bf16 product of random matrices."""
    x, y = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / (_median(lambda: x @ y) * 1e-3)


def _sets(row: Row) -> list[tuple[Tensor, ...]]:
    first = row.inputs(0)
    size = sum(x.numel() * x.element_size() for x in first)
    count = max(1, min(8, math.ceil(2 * L2 / size)))
    return [first, *(row.inputs(i) for i in range(1, count))]


def measure(row: Row, copy: float, rate: float) -> dict[str, object]:
    """One line of the table."""
    flops = row.flops() if callable(row.flops) else row.flops
    floor = max(row.bytes / copy, flops / rate) * 1e3
    found: dict[str, object] = {"row": row.key, "note": row.note, "floor_ms": floor}
    found |= {"flops": flops, "bytes": row.bytes, "copy": copy, "rate": rate}
    wrong = error(row)
    found["error"] = wrong
    if not wrong <= row.tolerance:
        return found | {"status": "wrong"}
    sets = _sets(row)
    times: dict[str, float] = {}
    marks: dict[str, str] = {}
    for name, kernel in {"ours": row.ours, **row.peers}.items():
        if row.warm is not None:
            row.warm()
        try:
            times[name], captured = timed(kernel, sets, row.mode)
            marks[name] = "" if captured else "*"
        except Exception as fault:  # noqa: BLE001  # a peer may fail in any way; its row says how
            marks[name] = f"{type(fault).__name__}: {str(fault)[:120]}"
            torch.cuda.synchronize()
    return found | {"status": "ok", "ms": times, "marks": marks}


def line(found: Mapping[str, object]) -> str:
    """A row for people: ms of ours, ratio to the best peer, percent of the floor, peers."""
    if found["status"] != "ok":
        return f"{found['row']:<58} WRONG error {found['error']:.2e}"
    times = dict(found["ms"])  # type: ignore[call-overload]  # the dict that measure made
    marks = dict(found["marks"])  # type: ignore[call-overload]  # as above
    if "ours" not in times:
        return f"{found['row']:<58} FAILED {marks['ours']}"
    ours = times.pop("ours")
    best = f"{min(times.values()) / ours:5.2f}x" if times else "    - "
    share = 100 * float(found["floor_ms"]) / ours  # type: ignore[arg-type]  # a float
    peers = "  ".join(f"{k} {v:.3f}{marks[k]}" for k, v in times.items())
    failed = "  ".join(f"{k}: {v}" for k, v in marks.items() if k not in times and k != "ours")
    return (
        f"{found['row']:<58} {ours:8.3f}{marks['ours']:1} {best} {share:4.0f}% "
        f"err {found['error']:.1e}  {peers}  {failed}"
    )


def _warm(keys: Sequence[str]) -> None:
    """Compile what these rows need; a failure shows when the row is measured."""
    for row in chosen({key.split("/")[0] for key in keys}):
        if row.key in keys:
            for kernel in (row.ours, *row.peers.values()):
                if row.warm is not None:
                    row.warm()
                with suppress(Exception):
                    y = kernel(*row.inputs(0))
                    call(kernel, row.inputs(0), row.mode, torch.randn_like(y.detach()))


def warm(rows: Sequence[Row], processes: int) -> None:
    """`_warm` for all rows, dealt out to processes."""
    context = multiprocessing.get_context("spawn")
    keys = [row.key for row in rows]
    jobs = [context.Process(target=_warm, args=(keys[i::processes],)) for i in range(processes)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()


def chosen(engines: Iterable[str], names: str = "", mode: str | None = None) -> list[Row]:
    """The rows of these engines whose name has one of the parts in `names`, in this mode."""
    parts = [p for p in names.split(",") if p]
    return [
        row
        for engine in engines
        for row in importlib.import_module(f"benchmarks.kernels.{engine}").rows()
        if (not parts or any(p in row.name for p in parts)) and mode in (None, row.mode)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--names", default="", help="only rows whose name has one of these parts")
    parser.add_argument("--mode", choices=("fwd", "fwd+bwd"))
    parser.add_argument("--out", type=Path, default=Path("build/kernels"))
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--warm", type=int, default=0, help="processes that compile first")
    arguments = parser.parse_args()
    until = time.monotonic() + 60 * arguments.minutes
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "rows.jsonl"
    done = [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []
    known = {d["row"] for d in done}
    copy, rate = copy_bandwidth(), matmul_rate()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy {copy / 1e12:.2f} TB/s, "
        f"bf16 matmul {rate / 1e12:.0f} TFLOP/s",
        flush=True,
    )
    where = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    where["date"] = time.strftime("%Y-%m-%d")
    rows = chosen(arguments.engines.split(","), arguments.names, arguments.mode)
    rows = [row for row in rows if row.key not in known]
    if arguments.warm:
        warm(rows, arguments.warm)
    for row in rows:
        if time.monotonic() > until:
            print("time is up; the same command goes on from here", flush=True)
            return
        torch.cuda.empty_cache()
        try:
            found = measure(row, copy, rate)
        except Exception as fault:  # noqa: BLE001  # a broken row must not cost the others
            print(f"{row.key:<58} FAILED {type(fault).__name__}: {str(fault)[:300]}", flush=True)
            continue
        with path.open("a") as lines:
            lines.write(json.dumps(found | where) + "\n")
        print(line(found), flush=True)


if __name__ == "__main__":
    main()
