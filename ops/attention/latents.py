"""Latents: learned rows, the same for every input; other sequences are read into them.

    y_i = l_i,  i = 1..count

Not causal: it has no place in time. Shapes: x (any kind) [B, ...] -> [B, count, dim]; only the
batch size of x matters, and padding of x is not carried on. Rows start at N(0, 0.02^2). Cost: count
dim parameters, no FLOPs. Paper: Jaegle et al. 2021, "Perceiver", arXiv:2103.03206, section 3 (the
latent array).
"""

import torch
from torch import Tensor, nn

from grammar.domain import Int
from ops.spec import Cost, Op, TensorType, need, seq


class Latents(nn.Module):
    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(0.02 * torch.randn(count, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.rows.repeat(x.shape[0], 1, 1)


def _shape(x: TensorType, count: int, dim: int) -> TensorType:
    need(x, "tokens", "seq", "image", "vec", "scores")
    return seq(count, dim)


OP = Op(
    name="latents",
    module=Latents,
    params={"count": Int(1, 4096, log=True), "dim": Int(1, 65536, log=True)},
    init=lambda x, count, dim: {"count": count, "dim": dim},
    shape=_shape,
    cost=lambda x, count, dim: Cost(count * dim),
    causal=False,
    paper="arXiv:2103.03206",
)
