"""Rows and sweep of the delta rule, plain and gated; the peer is fla.

    python -m benchmarks.kernels.delta --sweep delta-4096-64 [--mode fwd]

Least bytes: forward reads q, k, v, b (and g), writes o; backward reads q, k, v, do and writes dq,
dk, dv. Least FLOPs: the recurrence itself, 6 K V a token and head forward. While the kernels are
withheld (`ops/kernels/delta.py`) ours is the PyTorch reference in the rows, and their note says so;
the sweep calls the kernels.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.kernels.chunked import GATED_BACKWARD, descend, profiled, sweeps, timer
from benchmarks.kernels.harness import Row
from ops.kernels.delta import chunked_delta
from ops.kernels.delta_launch import delta_config, delta_triton

WITHHELD = "the PyTorch reference: the kernels are withheld"


@dataclass(frozen=True)
class Shape:
    """q, k [B, H, N, D], v [B, H, N, D], b, g [B, H, N]; heads inside of time, as in fla."""

    kind: str
    length: int
    batch: int
    heads: int
    width: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.length}-{self.width}"

    @property
    def gated(self) -> bool:
        return self.kind == "gated_delta"

    def inputs(self, seed: int, batch: int = 0, length: int = 0) -> tuple[Tensor, ...]:
        torch.manual_seed(seed)
        b, t = batch or self.batch, length or self.length
        q, k, v = (torch.randn(b, t, self.heads, self.width, device="cuda") for _ in range(3))
        parts = [q.bfloat16(), F.normalize(k, dim=-1).bfloat16(), v.bfloat16()]
        parts.append(torch.rand(b, t, self.heads, device="cuda"))
        if self.gated:
            parts.append(F.logsigmoid(torch.randn(b, t, self.heads, device="cuda") + 2) / 4)
        return tuple(x.transpose(1, 2).requires_grad_() for x in parts)


def ours(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None = None) -> Tensor:
    return chunked_delta(q, k, v, beta, q.new_zeros(1) if g is None else g)[0]


def fla(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None = None) -> Tensor:
    from fla.ops.delta_rule import chunk_delta_rule
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    q, k, v, beta = (x.transpose(1, 2) for x in (q, k, v, beta))
    if g is None:
        o: Tensor = chunk_delta_rule(q, k, v, beta, scale=1.0)[0]
    else:
        o = chunk_gated_delta_rule(q, k, v, g.transpose(1, 2), beta, scale=1.0)[0]
    return o.transpose(1, 2)


def shapes() -> list[Shape]:
    batches = {1024: 8, 4096: 4, 16384: 2, 65536: 1}
    found = [Shape("delta", n, b, 16, 64) for n, b in batches.items()]
    found += [Shape("delta", n, batches[n], 8, 128) for n in (4096, 16384)]
    return [*found, *(Shape("gated_delta", n, batches[n], 8, 128) for n in (4096, 16384))]


def row(shape: Shape, mode: str) -> Row:
    tokens, d = shape.batch * shape.length * shape.heads, shape.width
    both = mode == "fwd+bwd"
    scalars = 4 * tokens * (1 + shape.gated)
    blocked = both and shape.gated
    return Row(
        engine="delta",
        name=shape.name,
        mode=mode,
        inputs=shape.inputs,
        small=partial(shape.inputs, batch=1, length=1000),
        ours=ours,
        reference=ours,  # float64 takes the PyTorch reference
        flops=6.0 * tokens * d * d * (3 if both else 1),
        bytes=2 * tokens * d * (11 if both else 4) + scalars * (3 if both else 1),
        peers={} if blocked else {"fla": fla},
        note=f"{WITHHELD}; {GATED_BACKWARD}" if blocked else WITHHELD,
    )


def rows() -> list[Row]:
    return [row(shape, mode) for shape in shapes() for mode in ("fwd", "fwd+bwd")]


CHOICES: dict[str, dict[str, tuple[int, ...]]] = {
    "fwd": {
        "span": (1024, 2048, 4096, 65536),
        "block": (16, 32, 64),
        "warps": (2, 4, 8),
        "stages": (1, 2, 3),
        "solve_warps": (1, 2, 4),
    },
    "bwd": {
        "span": (1024, 2048, 4096, 65536),
        "back_block": (16, 32, 64),
        "back_warps": (2, 4, 8),
        "back_stages": (1, 2, 3),
        "grads_block": (32, 64, 128),
        "grads_warps": (4, 8),
    },
}


def sweep(name: str, mode: str) -> None:
    """The best config of a shape, forward or with its backward, and what its kernels take."""
    shape = next(s for s in shapes() if s.name == name)
    start = delta_config(shape.length, shape.batch * shape.heads, shape.width, shape.width)
    parts = shape.inputs(0)
    g = parts[4] if shape.gated else parts[0].new_zeros(1)

    def run(config: dict[str, int]) -> Tensor:
        return delta_triton(*parts[:4], g, config=config)[0]

    best = descend(f"{name} {mode}", timer(run, parts, mode), start, CHOICES[mode])
    profiled(f"{name} {mode}", run, parts, best)


if __name__ == "__main__":
    sweeps(str(__doc__), "delta-4096-64", sweep)
