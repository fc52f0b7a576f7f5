"""Rows and sweep of the scan kernels; the peers are the same recurrence in log2(T) steps of torch,
one after the other and compiled, and fla's HGRN where it is installed.

    python -m benchmarks.kernels.scan --sweep plain|gru|lstm

A row's name is kind-B-T-D. Least bytes: every input and output of the mode once, and in the
backward pass the gates and the states again. `plain` is fp32, the gates of `gru` and `lstm` bf16.
fla's kernel takes log a: its row pays for the logarithm.
"""

import argparse
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.kernels.harness import Kernel, Row
from benchmarks.kernels.rows import best
from ops.kernels.scan import gate_terms, gated_scan, linear_scan, prefix_softmax
from ops.kernels.scan_kernel import gate_parts, scan_backward, scan_forward

Size = tuple[int, int, int]
SIZES: list[Size] = [
    (64, 256, 128),
    (64, 256, 256),
    (16, 1024, 256),
    (4, 4096, 1024),
    (1, 65536, 512),
]
PARTS = {"plain": 1, "gru": 2, "lstm": 3}


def inputs(kind: str, size: Size, seed: int) -> tuple[Tensor, ...]:
    torch.manual_seed(seed)
    b, t, d = size
    if kind == "plain":
        a = torch.randn(size, device="cuda").sigmoid()
        return a.requires_grad_(), torch.randn(size, device="cuda", requires_grad=True)
    gates = torch.randn(b, t, PARTS[kind] * d, device="cuda", dtype=torch.bfloat16)
    return (gates.requires_grad_(),)


def steps(a: Tensor, b: Tensor) -> Tensor:
    """The recurrence in log2(T) steps of torch."""
    shift = 1
    while shift < b.shape[1]:
        now, past = a[:, shift:], slice(None, -shift)
        b = torch.cat([b[:, :shift], now * b[:, past] + b[:, shift:]], dim=1)
        a = torch.cat([a[:, :shift], now * a[:, past]], dim=1)
        shift *= 2
    return b


def gate_steps(kind: str, gates: Tensor) -> Tensor:
    return steps(*gate_terms(gates, kind)).to(gates.dtype)


def hgrn(a: Tensor, b: Tensor) -> Tensor:
    from fla.ops.hgrn import fused_recurrent_hgrn

    y: Tensor = fused_recurrent_hgrn(b, a.log())[0]
    return y


def row(kind: str, size: Size, mode: str) -> Row:
    b, t, d = size
    plain: Kernel = steps if kind == "plain" else partial(gate_steps, kind)
    ours: Kernel = linear_scan if kind == "plain" else partial(gated_scan, kind=kind)
    peers = {"torch": plain, "compiled": torch.compile(plain, dynamic=False)}
    if kind == "plain" and importlib.util.find_spec("fla") is not None:
        peers["fla hgrn"] = hgrn
    wide = 8 if kind == "plain" else 2 * PARTS[kind]
    out = 4 if kind == "plain" else 2
    return Row(
        engine="scan",
        name=f"{kind}-{b}-{t}-{d}",
        mode=mode,
        inputs=partial(inputs, kind, size),
        small=partial(inputs, kind, (2, 777, d)),
        ours=ours,
        reference=plain,
        flops=0.0,
        bytes=float(b * t * d * (wide + out + (2 * wide + 2 * out) * (mode == "fwd+bwd"))),
        peers=peers,
        warm=torch._dynamo.reset,
    )


def pool_inputs(size: Size, seed: int) -> tuple[Tensor, ...]:
    """Scores [B, H, T] and values [B, H, T, 64] of D = 64 H channels, heads inside of time."""
    torch.manual_seed(seed)
    b, t, d = size
    s = torch.randn(b, d // 64, t, device="cuda", requires_grad=True)
    v = torch.randn(b, t, d // 64, 64, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
    return s, v.requires_grad_()


def pool_torch(s: Tensor, v: Tensor) -> Tensor:
    """Softmax of a triangle of scores: O(T^2), as torch would have it."""
    hidden = torch.ones(s.shape[-1], s.shape[-1], dtype=torch.bool, device=s.device).triu(1)
    scores = s[..., None, :].expand(-1, -1, s.shape[-1], -1).masked_fill(hidden, float("-inf"))
    return scores.softmax(-1).to(v.dtype) @ v


def pool_row(size: Size, mode: str) -> Row:
    b, t, d = size
    return Row(
        engine="scan",
        name=f"pool-{b}-{t}-{d}",
        mode=mode,
        inputs=partial(pool_inputs, size),
        small=partial(pool_inputs, (2, 777, d)),
        ours=prefix_softmax,
        reference=pool_torch,
        flops=0.0,
        bytes=float(b * t * d * (4 + 8 * (mode == "fwd+bwd"))),
        peers={"torch": pool_torch, "compiled": torch.compile(pool_torch, dynamic=False)},
        warm=torch._dynamo.reset,
    )


def rows() -> list[Row]:
    chosen = [("plain", s) for s in SIZES] + [("gru", s) for s in SIZES] + [("lstm", SIZES[1])]
    modes = ("fwd", "fwd+bwd")
    pools = [pool_row(size, mode) for size in SIZES[:3] for mode in modes]
    return [row(kind, size, mode) for kind, size in chosen for mode in modes] + pools


def runs(kind: str, size: Size) -> Iterator[tuple[str, Callable[[], object]]]:
    given = [x.detach() for x in inputs(kind, size, 0)]
    gates = (given[0], given[1], given[1]) if kind == "plain" else gate_parts(given[0], kind)
    dtype = given[0].dtype
    out = scan_forward(gates, kind, dtype)
    grads = tuple(torch.empty_like(g) for g in given)
    filled = (grads[0], grads[1], grads[1]) if kind == "plain" else gate_parts(grads[0], kind)
    tiles = [(16, 32, 1), (32, 32, 1), (64, 32, 2), (64, 32, 4), (128, 32, 4)]
    tiles += [(128, 32, 8), (256, 32, 8), (256, 32, 16)]
    length = size[1]
    cuts = {length, max(256, length // 32), max(256, length // 128)}
    for config, cut in itertools.product(tiles, sorted(cuts)):
        chunk = -(-cut // config[0]) * config[0]
        yield (
            f"fwd {config} chunk {chunk}",
            partial(scan_forward, gates, kind, dtype, config, chunk),
        )
        yield (
            f"bwd {config} chunk {chunk}",
            partial(scan_backward, gates, filled, out, out, kind, config, chunk),
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sweep", choices=sorted(PARTS), required=True)
    chosen = parser.parse_args().sweep
    for size in SIZES:
        print(f"scan {chosen} {size}", flush=True)
        best(runs(chosen, size))
