"""RMS norm: divide each vector by its root mean square, then scale each channel.

    y = x / sqrt(mean_d x_d^2 + eps) * g

Shapes: seq [B, T, D] and vec [B, D] over D; image [B, C, H, W] over C at every place.
Statistics in fp32 at least; output in the input's dtype,
under autocast on a GPU in autocast's. Cost: D parameters, no matmul.
Paper: Zhang & Sennrich 2019, "Root Mean Square Layer Normalization", arXiv:1910.07467, eq. 4.
"""

import torch
from torch import Tensor, nn

from grammar.domain import Float
from ops.kernels.rows import NORMED, normed, sum_normed
from ops.spec import Cost, Op, TensorType, need


class RMSNorm(nn.Module):
    def __init__(self, dim: int, eps: float = 1e-6, axis: int = -1) -> None:
        super().__init__()
        self.eps, self.axis = eps, axis
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        if self.axis == -1:
            return normed(x, self.weight, None, self.eps)
        y = normed(x.movedim(self.axis, -1), self.weight, None, self.eps)
        return y.movedim(-1, self.axis).contiguous()

    def joined(self, x: Tensor, r: Tensor | None) -> tuple[Tensor, Tensor]:
        """x + r and its norm; x and its norm where nothing is added."""
        return sum_normed(x, r, self.weight, None, self.eps)


def _shape(x: TensorType, eps: float) -> TensorType:
    need(x, "seq", "vec", "image")
    return x


OP = Op(
    name="rms_norm",
    module=RMSNorm,
    params={"eps": Float(1e-12, 1e-1, log=True, default=1e-6)},
    shape=_shape,
    init=lambda x, eps: {"dim": x.dim, "eps": eps, "axis": 1 if x.kind == "image" else -1},
    cost=lambda x, eps: Cost(params=x.dim),
    causal=True,
    uses=NORMED,
    paper="arXiv:1910.07467",
)
