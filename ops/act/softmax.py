"""Softmax over the last axis: positive numbers that sum to one.

    y_d = exp(x_d) / sum_e exp(x_e)

Shapes: seq [B, T, D] over D, vec [B, D] over D, image [B, C, H, W] over W (the last axis in every
mode, as in einspace: arXiv:2405.20838). No parameters, no matmul.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ops.spec import Op, TensorType, need, no_cost


class Softmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, -1)


def _shape(x: TensorType) -> TensorType:
    need(x, "seq", "vec", "image")
    return x


OP = Op(
    name="softmax",
    module=Softmax,
    shape=_shape,
    init=lambda x: {},
    cost=no_cost,
    causal=True,
    inline=lambda xs, params: f"F.softmax({xs[0]}, -1)",
)
