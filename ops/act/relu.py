"""ReLU: negative values become zero, element by element.

    y = max(x, 0)

Shapes: seq, vec or image, kept. No parameters, no matmul.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ops.spec import Op, TensorType, need, no_cost


class ReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


def _shape(x: TensorType) -> TensorType:
    need(x, "seq", "vec", "image")
    return x


OP = Op(
    name="relu",
    module=ReLU,
    shape=_shape,
    init=lambda x: {},
    cost=no_cost,
    causal=True,
    inline=lambda xs, params: f"F.relu({xs[0]})",
)
