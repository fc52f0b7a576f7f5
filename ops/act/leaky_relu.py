"""Leaky ReLU: negative values are multiplied by `slope`.

    y = x if x > 0 else slope x

Shapes: seq, vec or image, kept. No parameters, no matmul.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Float
from ops.spec import Op, TensorType, need, no_cost


class LeakyReLU(nn.Module):
    def __init__(self, slope: float = 0.01) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.slope)


def _shape(x: TensorType, slope: float) -> TensorType:
    need(x, "seq", "vec", "image")
    return x


OP = Op(
    name="leaky_relu",
    module=LeakyReLU,
    params={"slope": Float(0.0, 1.0, default=0.01)},
    shape=_shape,
    init=lambda x, slope: {"slope": slope},
    cost=no_cost,
    causal=True,
    inline=lambda xs, params: f"F.leaky_relu({xs[0]}, {params['slope']!r})",
)
