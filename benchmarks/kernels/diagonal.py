"""Rows and sweep of the recurrence with a decay for every key channel; the peer is fla's GLA.

    python -m benchmarks.kernels.diagonal --sweep gla-4096-64 [--mode fwd]

Gates are GLA's, logsigmoid(x) / 16, in fp32; rows named `strong` have logsigmoid(x - 1) as HGRN-2
has at its start. Least bytes: forward reads q, k, v, g and writes o; backward reads q, k, v, do, g
and writes dq, dk, dv, dg. Least FLOPs: the recurrence itself.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.kernels.chunked import descend, profiled, sweeps, timer
from benchmarks.kernels.harness import Row
from ops.kernels.diagonal import chunked_diagonal
from ops.kernels.diagonal_launch import diagonal_config, diagonal_triton


@dataclass(frozen=True)
class Shape:
    """q, k, g [B, H, N, K], v [B, H, N, V]; in memory heads are inside of time, as in fla."""

    kind: str
    length: int
    batch: int
    heads: int
    key: int
    value: int

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.length}-{self.value}"

    def inputs(self, seed: int, batch: int = 0, length: int = 0) -> tuple[Tensor, ...]:
        torch.manual_seed(seed)
        b, t = batch or self.batch, length or self.length

        def heads(width: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
            return torch.randn(b, t, self.heads, width, device="cuda", dtype=dtype)

        x = heads(self.key, torch.float32)
        g = F.logsigmoid(x - 1) if self.kind == "strong" else F.logsigmoid(x) / 16
        parts = heads(self.key), heads(self.key), heads(self.value), g
        return tuple(x.transpose(1, 2).requires_grad_() for x in parts)


def ours(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    return chunked_diagonal(q, k, v, g)[0]


def fla(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    from fla.ops.gla import chunk_gla

    o: Tensor = chunk_gla(*(x.transpose(1, 2) for x in (q, k, v, g)), scale=1.0)[0]
    return o.transpose(1, 2)


def shapes() -> list[Shape]:
    batches = {1024: 8, 4096: 4, 16384: 2, 65536: 1}
    found = [Shape("gla", n, b, 16, 64, 64) for n, b in batches.items()]
    found += [Shape("gla", n, batches[n], 8, 128, 128) for n in (4096, 65536)]
    return [*found, Shape("strong", 4096, 4, 16, 64, 64)]


def row(shape: Shape, mode: str) -> Row:
    tokens, k, v = shape.batch * shape.length * shape.heads, shape.key, shape.value
    once = 2 * tokens * (2 * k + 2 * v) + 4 * tokens * k
    again = 2 * tokens * (4 * k + 3 * v) + 8 * tokens * k
    both = mode == "fwd+bwd"
    return Row(
        engine="diagonal",
        name=shape.name,
        mode=mode,
        inputs=shape.inputs,
        small=partial(shape.inputs, batch=1, length=1000),
        ours=ours,
        reference=ours,  # float64 takes the PyTorch reference
        flops=4.0 * tokens * k * v * (3 if both else 1),
        bytes=once + (again if both else 0),
        peers={"fla": fla},
    )


def rows() -> list[Row]:
    return [row(shape, mode) for shape in shapes() for mode in ("fwd", "fwd+bwd")]


CHOICES: dict[str, dict[str, tuple[int, ...]]] = {
    "fwd": {
        "warps": (2, 4, 8),
        "registers": (0, 128, 168),
        "span": (256, 512, 1024),
        "chunk": (16, 32),
        "block": (32, 64),
        "sums_chunk": (32, 64),
        "sums_warps": (4, 8),
        "sums_stages": (1, 2, 3),
    },
    "bwd": {
        "grads_warps": (2, 4, 8),
        "registers": (0, 128, 168),
        "span": (256, 512, 1024),
        "gate_block": (16, 32, 64),
    },
}


def sweep(name: str, mode: str) -> None:
    """The best config of a shape, forward or with its backward, and what its kernels take."""
    shape = next(s for s in shapes() if s.name == name)
    start = diagonal_config(shape.length, shape.batch * shape.heads, shape.key, shape.value, False)
    parts = shape.inputs(0)

    def run(config: dict[str, int]) -> Tensor:
        return diagonal_triton(*parts, config=config)[0]

    best = descend(f"{name} {mode}", timer(run, parts, mode), start, CHOICES[mode])
    profiled(f"{name} {mode}", run, parts, best)


if __name__ == "__main__":
    sweeps(str(__doc__), "gla-4096-64", sweep)
