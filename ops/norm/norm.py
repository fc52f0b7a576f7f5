"""Norm as einspace means it: batch norm of an image, layer norm of everything else.

    image:     y = (x - mean) / sqrt(var + eps) * g + b   over the batch and all places, per channel
    seq, vec:  the same over the channels of each vector

In training an image takes the batch's own variance (biased), in `eval()` the running averages;
`forward` writes no buffer: `stats = (mean, unbiased var)` of an image (empty otherwise) go to
`update`. A batch with a single value per channel has no variance: the running ones serve there too.
Shapes: image [B, C, H, W] over C, seq [B, T, D] and vec [B, D] over D. Cost: 2 C or 2 D parameters.
From einspace, its one normalisation in both modes: Ericsson et al. 2024, arXiv:2405.20838.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.kernels.rows import NORMED, normed
from ops.spec import Cost, Op, TensorType, need


class Norm(nn.Module):
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, dim: int, batch: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.batch, self.eps = batch, eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        if batch:
            self.register_buffer("running_mean", torch.zeros(dim))
            self.register_buffer("running_var", torch.ones(dim))

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not self.batch:
            return normed(x, self.weight, self.bias, self.eps, center=True), ()
        fresh = self.training and x.numel() > self.weight.numel()
        # with momentum 1 the kernel leaves the batch's own statistics in these two copies
        mean, var = self.running_mean.clone(), self.running_var.clone()
        y = F.batch_norm(x, mean, var, self.weight, self.bias, fresh, 1.0, self.eps)
        return y, (mean, var)

    @torch.no_grad()
    def update(self, stats: tuple[Tensor, ...]) -> None:
        if stats:
            self.running_mean.lerp_(stats[0], 0.1)
            self.running_var.lerp_(stats[1], 0.1)


def _shape(x: TensorType) -> TensorType:
    need(x, "image", "seq", "vec")
    return x


def _init(x: TensorType) -> dict[str, Any]:
    return {"dim": x.dim, "batch": x.kind == "image"}


OP = Op(
    name="norm",
    module=Norm,
    shape=_shape,
    init=_init,
    cost=lambda x: Cost(params=2 * x.dim),
    causal=True,
    uses=NORMED,
    returns=("y", "stats"),
    paper="arXiv:2405.20838",
)
