"""Batch norm: give each channel mean 0 and variance 1 over the batch, then scale and shift it.

    y = (x - mean) / sqrt(var + eps) * g + b;   running <- 0.9 running + 0.1 batch

mean and var run over the batch and all places. Training takes the batch's own (biased variance),
`eval()` the running ones. `forward` writes no buffer: it returns `stats = (mean, unbiased var)`,
and `update(stats)` moves the running averages. A batch with a single value per channel has no
variance: the running ones serve there too.
Shapes: image [B, C, H, W] over C, seq [B, T, D] and vec [B, D] over D. Mask: none, the statistics
would count padded tokens. Not causal on a seq: a token's mean knows the later ones.
Cost: 2 D parameters, no matmul.
Paper: Ioffe & Szegedy 2015, "Batch Normalization", arXiv:1502.03167, algorithm 1.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Float
from ops.spec import Cost, Op, TensorType, need


class BatchNorm(nn.Module):
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        batch = self.training and x.numel() > self.weight.numel()
        # with momentum 1 the kernel leaves the batch's own statistics in these two copies
        mean, var = self.running_mean.clone(), self.running_var.clone()
        flat = x.flatten(0, 1) if x.dim() == 3 else x
        y = F.batch_norm(flat, mean, var, self.weight, self.bias, batch, 1.0, self.eps)
        return y.view_as(x), (mean, var)

    @torch.no_grad()
    def update(self, stats: tuple[Tensor, Tensor]) -> None:
        self.running_mean.lerp_(stats[0], 0.1)
        self.running_var.lerp_(stats[1], 0.1)


def _shape(x: TensorType, eps: float) -> TensorType:
    need(x, "image", "seq", "vec")
    return x


OP = Op(
    name="batch_norm",
    module=BatchNorm,
    params={"eps": Float(1e-12, 1e-1, log=True, default=1e-5)},
    shape=_shape,
    cost=lambda x, eps: Cost(params=2 * x.dim),
    causal=lambda x, eps: x.kind != "seq",
    returns=("y", "stats"),
    mask="none",
    paper="arXiv:1502.03167",
)
