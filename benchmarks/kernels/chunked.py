"""Rows and sweep of the chunked recurrence with one decay a head and token; the peer is fla.

    python -m benchmarks.kernels.chunked --sweep lightning-4096-64 [--mode fwd]

A row's name is kind-N-D. Least bytes: forward reads q, k, v and writes o; backward reads q, k, v,
do and writes dq, dk, dv. Least FLOPs: the recurrence itself, 4 K V a token and head forward, three
times that with backward. fla refuses its gated backward on Triton 3.4 to 3.7.0 with Hopper (issue
640), so gated rows have a peer forward only.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.kernels.harness import Kernel, Row
from ops.kernels.chunked import chunked_decay
from ops.kernels.chunked_launch import decay_config, decay_triton
from ops.kernels.positions import alibi_slopes

GATED_BACKWARD = "fla refuses its gated backward here (issue 640)"


@dataclass(frozen=True)
class Shape:
    """q, k [B, H or 1, N, K], v [B, H, N, V]; in memory heads are inside of time, as in fla."""

    kind: str
    length: int
    batch: int
    heads: int
    key: int
    value: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.length}-{self.value if self.key == 128 else self.key}"

    @property
    def gated(self) -> bool:
        return self.kind in ("simple_gla", "mamba2")

    @property
    def few(self) -> int:
        """Heads of q and k."""
        return 1 if self.kind == "mamba2" else self.heads

    def inputs(self, seed: int, batch: int = 0, length: int = 0) -> tuple[Tensor, ...]:
        """q, k, v and, where the decay is of the data, g [B, H, N] in fp32."""
        torch.manual_seed(seed)
        b, t = batch or self.batch, length or self.length

        def heads(count: int, width: int) -> Tensor:
            x = torch.randn(b, t, count, width, device="cuda", dtype=torch.bfloat16)
            return x.transpose(1, 2).requires_grad_()

        q, k, v = (
            heads(self.few, self.key),
            heads(self.few, self.key),
            heads(self.heads, self.value),
        )
        if not self.gated:
            return q, k, v
        g = F.logsigmoid(torch.randn(b, t, self.heads, device="cuda") + 2) / 4
        return q, k, v, g.transpose(1, 2).requires_grad_()


@cache
def slopes(heads: int, kind: str) -> Tensor:
    """Fixed log decays [H]."""
    if kind == "retnet":
        return torch.log1p(-torch.exp2(-5.0 - torch.arange(heads))).cuda()
    return -alibi_slopes(heads).cuda()


def ours(kind: str, q: Tensor, k: Tensor, v: Tensor, g: Tensor | None = None) -> Tensor:
    fixed = slopes(v.shape[1], kind)[:, None]
    return chunked_decay(q, k, v, fixed.to(q.dtype) if q.dtype == torch.float64 else fixed)[0]


def ours_gated(kind: str, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    return chunked_decay(q, k, v, g)[0]


def fla(kind: str, q: Tensor, k: Tensor, v: Tensor, g: Tensor | None = None) -> Tensor:
    from fla.ops.simple_gla import chunk_simple_gla

    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if q.shape[2] < v.shape[2]:
        q, k = (x.expand(-1, -1, v.shape[2], -1).contiguous() for x in (q, k))
    gates = {"g_gamma": slopes(v.shape[2], kind)} if g is None else {"g": g.transpose(1, 2)}
    o: Tensor = chunk_simple_gla(q, k, v, scale=1.0, **gates)[0]
    return o.transpose(1, 2)


def shapes() -> list[Shape]:
    batches = {1024: 8, 4096: 4, 16384: 2, 65536: 1}
    found = [Shape("lightning", n, b, 16, 64, 64) for n, b in batches.items()]
    found += [Shape("lightning", n, batches[n], 8, 128, 128) for n in (1024, 4096, 65536)]
    found += [Shape("simple_gla", n, b, 16, 64, 64) for n, b in batches.items()]
    found += [Shape("simple_gla", 4096, 4, 8, 128, 128)]
    found += [Shape("retnet", n, batches[n], 8, 64, 128) for n in (4096, 16384)]
    found += [Shape("mamba2", n, batches[n], 32, 128, 64) for n in (4096, 16384)]
    return found


def row(shape: Shape, mode: str) -> Row:
    few, heads, k, v = shape.few, shape.heads, shape.key, shape.value
    tokens = shape.batch * shape.length
    once = 2 * tokens * (2 * few * k + 2 * heads * v) + 4 * tokens * heads * shape.gated
    again = 2 * tokens * (4 * few * k + 3 * heads * v) + 8 * tokens * heads * shape.gated
    both = mode == "fwd+bwd"
    kernel: Kernel = partial(ours_gated if shape.gated else ours, shape.kind)
    return Row(
        engine="chunked",
        name=shape.name,
        mode=mode,
        inputs=shape.inputs,
        small=lambda seed: shape.inputs(seed, batch=1, length=1000),
        ours=kernel,
        reference=kernel,  # float64 takes the PyTorch reference
        flops=4.0 * tokens * heads * k * v * (3 if both else 1),
        bytes=once + (again if both else 0),
        peers={} if both and shape.gated else {"fla": partial(fla, shape.kind)},
        note=GATED_BACKWARD if both and shape.gated else "",
    )


def rows() -> list[Row]:
    return [row(shape, mode) for shape in shapes() for mode in ("fwd", "fwd+bwd")]


# -- sweep -----------------------------------------------------------------------------------------

CHOICES: dict[str, dict[str, tuple[int, ...]]] = {
    "fwd": {
        "span": (256, 512, 1024),
        "stages": (2, 3, 4),
        "registers": (0, 128, 168),
        "warps": (2, 4, 8),
        "block": (32, 64, 128),
        "sums_chunk": (32, 64, 128),
        "sums_warps": (4, 8),
        "sums_stages": (2, 3, 4),
    },
    "bwd": {
        "grads_stages": (1, 2, 3),
        "grads_warps": (2, 4, 8),
        "registers": (0, 128, 168),
        "span": (256, 512, 1024),
    },
}


def replayed(run: Callable[[], object], repeats: int = 15) -> float:
    """Median ms of a captured call; a backward must have its forward inside, on one stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[2:])


def timer(run: Kernel, parts: tuple[Tensor, ...], mode: str) -> Callable[[dict[str, int]], float]:
    """ms of `run(config=...)`, forward or with its backward, as a function of the config."""

    def measure(config: dict[str, int]) -> float:
        if mode == "fwd":
            with torch.no_grad():
                return replayed(lambda: run(config=config))
        with torch.no_grad():
            do = torch.randn_like(run(config=config))
        return replayed(lambda: torch.autograd.grad(run(config=config), parts, do))

    return measure


def kernels_of(run: Callable[[], object]) -> Iterator[str]:
    """Microseconds of each kernel of a call."""
    device = torch.profiler.ProfilerActivity.CUDA
    with torch.profiler.profile(activities=[device], acc_events=True) as seen:
        run()
        torch.cuda.synchronize()
    for event in (e for e in seen.key_averages() if e.device_time_total):
        yield f"{event.key[:40]} {event.device_time_total:.0f} us"


def descend(
    title: str,
    measure: Callable[[dict[str, int]], float],
    best: dict[str, int],
    choices: Mapping[str, tuple[int, ...]],
) -> dict[str, int]:
    """Coordinate descent over `choices`: every value of a setting, the best is kept."""
    least = measure(best)
    print(f"{title} start {least:.4f} ms {best}", flush=True)
    for setting, values in choices.items():
        for value in values:
            if value == best[setting]:
                continue
            config = best | {setting: value}
            try:
                taken = measure(config)
            except Exception as fault:  # noqa: BLE001  # too much shared memory, say
                print(f"  {setting}={value}: {type(fault).__name__} {str(fault)[:80]}", flush=True)
                continue
            print(f"  {setting}={value}: {taken:.4f}", flush=True)
            if taken < 0.99 * least:
                least, best = taken, config
    print(f"{title} best {least:.4f} ms {best}", flush=True)
    return best


def profiled(name: str, run: Kernel, parts: tuple[Tensor, ...], config: dict[str, int]) -> None:
    """The kernels of one forward and backward of ours."""

    def both() -> object:
        o = run(config=config)
        return torch.autograd.grad(o, parts, o.detach())

    both()
    print("\n".join(f"  {name} {x}" for x in kernels_of(both)), flush=True)


def sweep(name: str, mode: str) -> None:
    """The best config of a shape, forward or with its backward, and what its kernels take."""
    shape = next(s for s in shapes() if s.name == name)
    start = decay_config(shape.length, shape.batch * shape.heads, shape.key, shape.value, False)
    parts = shape.inputs(0)
    g = parts[3] if shape.gated else slopes(shape.heads, shape.kind)[:, None]

    def run(config: dict[str, int]) -> Tensor:
        return decay_triton(*parts[:3], g, config=config)[0]

    best = descend(f"{name} {mode}", timer(run, parts, mode), start, CHOICES[mode])
    profiled(f"{name} {mode}", run, parts, best)


def sweeps(text: str, default: str, sweep: Callable[[str, str], None]) -> None:
    """The command line of an engine's sweep; `text` is its module's docstring."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--sweep", default=default, help="names of rows, with commas")
    parser.add_argument("--mode", choices=("fwd", "bwd"))
    arguments = parser.parse_args()
    modes = [arguments.mode] if arguments.mode else ["fwd", "bwd"]
    for name, mode in itertools.product(arguments.sweep.split(","), modes):
        sweep(name, mode)


if __name__ == "__main__":
    sweeps(str(__doc__), "lightning-4096-64", sweep)
