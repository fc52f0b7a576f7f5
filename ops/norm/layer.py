"""Layer norm: give each vector mean 0 and variance 1, then scale and shift each channel.

    y = (x - mean_d x) / sqrt(var_d x + eps) * g + b,   biased variance

Shapes: seq [B, T, D] and vec [B, D] over D; image [B, C, H, W] over C at every place.
Cost: 2 D parameters, no matmul.
Paper: Ba et al. 2016, "Layer Normalization", arXiv:1607.06450, section 3.
"""

import torch
from torch import Tensor, nn

from grammar.domain import Float
from ops.kernels.rows import NORMED, normed, sum_normed
from ops.spec import Cost, Op, TensorType, need


class LayerNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        last = x.movedim(1, -1) if x.dim() == 4 else x
        y = normed(last, self.weight, self.bias, self.eps, center=True)
        return y.movedim(-1, 1) if x.dim() == 4 else y

    def joined(self, x: Tensor, r: Tensor | None) -> tuple[Tensor, Tensor]:
        """x + r and its norm; x and its norm where nothing is added."""
        return sum_normed(x, r, self.weight, self.bias, self.eps, center=True)


def _shape(x: TensorType, eps: float) -> TensorType:
    need(x, "seq", "vec", "image")
    return x


OP = Op(
    name="layer_norm",
    module=LayerNorm,
    params={"eps": Float(1e-12, 1e-1, log=True, default=1e-5)},
    shape=_shape,
    cost=lambda x, eps: Cost(params=2 * x.dim),
    causal=True,
    uses=NORMED,
    paper="arXiv:1607.06450",
)
