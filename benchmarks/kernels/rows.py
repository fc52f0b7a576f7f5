"""Rows and sweep of the row kernels: norms, gates, losses; the peers are torch's own kernels, one
after the other and as torch.compile fuses them.

    python -m benchmarks.kernels.rows --sweep norm|gate|loss|table|turn

A row's name is kind-N-D. `sums`: two residual sums and their norms in a row, the stream fp32, the
branches bf16, so that a sum receives a gradient of its own. Least bytes: every input and output of
the mode once; statistics, gains and partial sums are not counted.
"""

import argparse
import itertools
import math
import statistics
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.kernels.harness import Kernel, Row
from ops.kernels.mixing import head_output
from ops.kernels.positions import meeting
from ops.kernels.rows import affine, gated, head_loss, looked_up, normed, row_loss, sum_normed
from ops.kernels.rows_gate_kernel import gate_backward, gate_forward
from ops.kernels.rows_loss_kernel import loss_backward, loss_forward
from ops.kernels.rows_norm_kernel import norm_backward, norm_forward
from ops.kernels.rows_table_kernel import bias_gradient, table_gradient
from ops.kernels.rows_turn_launch import turn_backward, turn_forward

EPS = 1e-6
BF16 = torch.bfloat16
SIZES = [(16384, 128), (16384, 256), (16384, 512), (16384, 2048), (65536, 4096)]
GATES = [(16384, 256), (16384, 344), (16384, 1024), (65536, 4096)]
LOSSES = [(16384, 84), (16384, 256), (16384, 32000)]


def draw(seed: int, *shapes: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> list[Tensor]:
    torch.manual_seed(seed)
    drawn = [torch.randn(s, device="cuda", dtype=t) for s, t in zip(shapes, dtypes, strict=True)]
    return [x.requires_grad_() for x in drawn]


def norm_inputs(size: tuple[int, int], seed: int) -> tuple[Tensor, ...]:
    return tuple(draw(seed, size, size[1:], dtypes=(BF16, BF16)))


def layer_inputs(size: tuple[int, int], seed: int) -> tuple[Tensor, ...]:
    return tuple(draw(seed, size, size[1:], size[1:], dtypes=(BF16,) * 3))


def sum_inputs(size: tuple[int, int], seed: int) -> tuple[Tensor, ...]:
    return tuple(draw(seed, size, size, size[1:], dtypes=(torch.float32, BF16, torch.float32)))


def gate_inputs(size: tuple[int, int], seed: int) -> tuple[Tensor, ...]:
    return tuple(draw(seed, (size[0], 2 * size[1]), dtypes=(BF16,)))


def loss_inputs(size: tuple[int, int], seed: int) -> tuple[Tensor, ...]:
    z = draw(seed, size, dtypes=(BF16,))[0]
    return z, torch.randint(size[1], size[:1], device="cuda")


def rms(x: Tensor, w: Tensor) -> Tensor:
    return normed(x, w, None, EPS)


def rms_torch(x: Tensor, w: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], w, EPS)


def layer(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return normed(x, w, b, EPS, center=True)


def layer_torch(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w, b, EPS)


def sums(x: Tensor, r: Tensor, w: Tensor) -> Tensor:
    with torch.autocast("cuda", BF16):
        s, y = sum_normed(x, r, w, None, EPS)
        return sum_normed(s, y, w, None, EPS)[1]


def sums_torch(x: Tensor, r: Tensor, w: Tensor) -> Tensor:
    s = x + r
    s = s + F.rms_norm(s, s.shape[-1:], w, EPS).to(BF16)
    return F.rms_norm(s, s.shape[-1:], w, EPS).to(BF16)


def silu(z: Tensor) -> Tensor:
    return gated(z, "silu")


def silu_torch(z: Tensor) -> Tensor:
    a, b = z.chunk(2, -1)
    return F.silu(a) * b


def head_inputs(size: tuple[int, int], seed: int) -> tuple[Tensor, ...]:
    """x [N, 256], a head of V rows, labels."""
    n, v = size
    x, w = draw(seed, (n, 256), (v, 256), dtypes=(BF16, BF16))
    return x, w, torch.randint(v, (n,), device="cuda")


def head(x: Tensor, w: Tensor, label: Tensor) -> Tensor:
    return head_loss(x, w, None, label)


def head_torch(x: Tensor, w: Tensor, label: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, w).float(), label)


def output_inputs(size: tuple[int, int], seed: int) -> tuple[Tensor, ...]:
    """o [B, 4, 256, K] with heads inside of time, the gate [B, 256, D], a gain of one head."""
    b, t, d = size[0] // 256, 256, size[1]
    o, gate, w = draw(seed, (b, t, 4, d // 4), (b, t, d), (d // 4,), dtypes=(BF16, BF16, BF16))
    return o, gate, w


def output(o: Tensor, gate: Tensor, w: Tensor) -> Tensor:
    return head_output(o.transpose(1, 2), gate, w, EPS)


def output_torch(o: Tensor, gate: Tensor, w: Tensor) -> Tensor:
    return F.rms_norm(o, o.shape[-1:], w, EPS).flatten(2) * F.silu(gate)


def table_inputs(size: tuple[int, int], seed: int) -> tuple[Tensor, ...]:
    table = draw(seed, (256, size[1]), dtypes=(torch.float32,))[0]
    return table, torch.randint(256, size[:1], device="cuda")


def table(table: Tensor, ids: Tensor) -> Tensor:
    return looked_up(ids, table)


def table_torch(table: Tensor, ids: Tensor) -> Tensor:
    return F.embedding(ids, table)


def affine_inputs(size: tuple[int, int], seed: int) -> tuple[Tensor, ...]:
    shapes = size, (size[1], size[1]), size[1:]
    return tuple(draw(seed, *shapes, dtypes=(BF16,) * 3))


def turn_inputs(size: tuple[int, int], seed: int) -> tuple[Tensor, ...]:
    """q [B, T, D] and keys and values [B, T, 2 D] of four heads, T = 256."""
    b, t, d = size[0] // 256, 256, size[1]
    return tuple(draw(seed, (b, t, d), (b, t, 2 * d), dtypes=(BF16, BF16)))


def turn(q: Tensor, kv: Tensor) -> Tensor:
    place = torch.arange(q.shape[1], device=q.device)
    q, k, v = meeting(q, kv, place, q.shape[-1] // 4, turn=True)
    return torch.stack([q, k, v])


def turn_torch(q: Tensor, kv: Tensor) -> Tensor:
    place = torch.arange(q.shape[1], device=q.device)
    parts = [z.unflatten(-1, (4, -1)).transpose(1, 2) for z in (q, *kv.chunk(2, -1))]
    half = q.shape[-1] // 8
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    channel = torch.arange(half, device=q.device, dtype=wide)
    angle = place.to(wide)[:, None] * torch.exp(channel * (-math.log(10000.0) / half))
    cos, sin = angle.cos(), angle.sin()
    turned = []
    for z in parts[:2]:
        a, b = z.to(wide).chunk(2, -1)
        turned.append(torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(z.dtype))
    return torch.stack([*turned, parts[2]])


def affine_torch(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.linear(x, w, b)


def loss_torch(z: Tensor, label: Tensor) -> Tensor:
    return F.cross_entropy(z.float(), label)


# kind: inputs, ours, torch's, sizes, bytes an element forward and backward
Problem = tuple[
    Callable[[tuple[int, int], int], tuple[Tensor, ...]],
    Kernel,
    Kernel,
    list[tuple[int, int]],
    tuple[int, int],
]
PROBLEMS: dict[str, Problem] = {
    "rms": (norm_inputs, rms, rms_torch, SIZES, (4, 6)),
    "layer": (layer_inputs, layer, layer_torch, SIZES[1::2], (4, 6)),
    "sums": (sum_inputs, sums, sums_torch, SIZES, (24, 28)),
    "gate": (gate_inputs, silu, silu_torch, GATES, (6, 10)),
    "loss": (loss_inputs, row_loss, loss_torch, LOSSES, (2, 4)),
    "output": (output_inputs, output, output_torch, SIZES[:3], (6, 10)),
    "table": (table_inputs, table, table_torch, SIZES[:3], (4, 4)),
    "affine": (affine_inputs, affine, affine_torch, SIZES[:3], (4, 6)),
    "turn": (turn_inputs, turn, turn_torch, SIZES[:3], (24, 24)),
    "head": (head_inputs, head, head_torch, LOSSES[1:], (0, 0)),  # by its products
}


def row(kind: str, size: tuple[int, int], mode: str) -> Row:
    inputs, ours, plain, _, cost = PROBLEMS[kind]
    products = 2.0 * 256 * size[0] * size[1] if kind == "head" else 0.0
    compiled: Kernel = torch.compile(plain, dynamic=False)
    return Row(
        engine="rows",
        name=f"{kind}-{size[0]}-{size[1]}",
        mode=mode,
        inputs=partial(inputs, size),
        small=partial(inputs, (512, size[1])),
        ours=ours,
        reference=ours,  # float64 takes the PyTorch functions
        flops=products * (3 if mode == "fwd+bwd" else 1),
        bytes=size[0] * size[1] * (sum(cost) if mode == "fwd+bwd" else cost[0]),
        peers={"torch": plain, "compiled": compiled},
        warm=torch._dynamo.reset,
    )


def rows() -> list[Row]:
    return [
        row(kind, size, mode)
        for kind, problem in PROBLEMS.items()
        for size in problem[3]
        for mode in ("fwd", "fwd+bwd")
    ]


# -- sweep -----------------------------------------------------------------------------------------


def repeated(run: Callable[[], object], calls: int = 20) -> float:
    """Median us of a call of which a graph holds many."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            run()
    times = []
    for _ in range(12):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return 1e3 * statistics.median(times[2:]) / calls


def norm_runs(size: tuple[int, int]) -> Iterator[tuple[str, Callable[[], object]]]:
    x, r, w = (t.detach() for t in sum_inputs(size, 0))
    s, y = norm_forward(x, r, w, None, EPS, False, BF16)
    kinds = torch.float32, BF16
    block = 1 << (size[1] - 1).bit_length()
    tiles = {max(1, n // block) for n in (1024, 2048, 4096, 8192)}
    for rows_, warps in itertools.product(sorted(tiles), (2, 4, 8, 16)):
        config = rows_, warps, rows_, warps, 0
        yield (
            f"fwd rows {rows_} warps {warps}",
            partial(norm_forward, x, r, w, None, EPS, False, BF16, config),
        )
        for most in (132, 264, 528, 1056):
            yield (
                f"bwd rows {rows_} warps {warps} programs {most}",
                partial(norm_backward, s, w, None, y, s, EPS, False, kinds, (*config[:4], most)),
            )


def gate_runs(size: tuple[int, int]) -> Iterator[tuple[str, Callable[[], object]]]:
    z = gate_inputs(size, 0)[0].detach()
    y = gate_forward(z, "silu")
    for tall, wide, warps in itertools.product((4, 8, 16, 32), (64, 128, 256), (2, 4, 8)):
        config = tall, wide, warps
        yield f"fwd {config}", partial(gate_forward, z, "silu", config)
        yield f"bwd {config}", partial(gate_backward, z, y, "silu", config)


def loss_runs(size: tuple[int, int]) -> Iterator[tuple[str, Callable[[], object]]]:
    z, label = loss_inputs(size, 0)
    z = z.detach()
    found, lse = loss_forward(z, label, -100)
    one = torch.ones((), device="cuda")
    block = 1 << (size[1] - 1).bit_length()
    for area, wide, warps in itertools.product(
        (1024, 2048, 4096, 8192), {min(block, n) for n in (256, 1024, 2048, 4096)}, (2, 4, 8)
    ):
        config = max(1, area // wide), wide, warps
        yield f"fwd {config}", partial(loss_forward, z, label, -100, config)
        yield f"bwd {config}", partial(loss_backward, z, label, lse, found, one, -100, config)


def table_runs(size: tuple[int, int]) -> Iterator[tuple[str, Callable[[], object]]]:
    ids = torch.randint(256, size[:1], device="cuda")
    dy = torch.randn(size, device="cuda")
    for slices, (rows_, tokens, wide, warps) in itertools.product(
        (32, 64), [(64, 64, 64, 2), (64, 32, 64, 2), (32, 64, 64, 4), (32, 64, 128, 4)]
    ):
        config = slices, rows_, tokens, wide, warps
        yield f"fwd {config}", partial(table_gradient, ids, dy, 256, config)
    low = dy.to(BF16)
    for slices, rows_, wide, warps in itertools.product((128, 256), (32, 64), (64, 128), (2, 4)):
        config_ = slices, rows_, wide, warps
        yield f"bwd {config_}", partial(bias_gradient, low, config_)


def turn_runs(size: tuple[int, int]) -> Iterator[tuple[str, Callable[[], object]]]:
    q, kv = (x.detach() for x in turn_inputs(size, 0))
    place = torch.arange(256, device="cuda")
    q, kv = q.unflatten(-1, (4, -1)), kv.unflatten(-1, (2, 4, -1))
    gains = (None, None)
    dy = (q, kv[:, :, 0], kv[:, :, 1])
    for span, few, warps in [(16, 4, 4), (8, 4, 4), (32, 4, 4), (16, 2, 4), (8, 4, 2), (32, 1, 4)]:
        config = span, few, warps
        yield f"fwd {config}", partial(turn_forward, q, kv, place, gains, 0.0, True, config)
        yield f"bwd {config}", partial(turn_backward, dy, q, kv, place, gains, 0.0, True, config)


SWEEPS = {
    "table": (table_runs, SIZES[:2]),  # fwd the table's gradient, bwd a bias's
    "turn": (turn_runs, SIZES[:2]),
    "norm": (norm_runs, SIZES[:2]),
    "gate": (gate_runs, GATES),
    "loss": (loss_runs, LOSSES),
}


def best(runs: Iterator[tuple[str, Callable[[], object]]], most: int = 4) -> None:
    """Print the fastest configurations, forward and backward apart."""
    found = sorted((repeated(run), name) for name, run in runs)
    for way in ("fwd", "bwd"):
        chosen = [(t, n) for t, n in found if n.startswith(way)]
        for time, name in (*chosen[:most], chosen[-1]):
            print(f"    {time:9.2f} us  {name}", flush=True)


def sweep(engine: str) -> None:
    runs, sizes = SWEEPS[engine]
    for size in sizes:
        print(f"{engine} {size}", flush=True)
        best(runs(size))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sweep", choices=sorted(SWEEPS), required=True)
    sweep(parser.parse_args().sweep)
