"""GELU: x weighted by the normal distribution below it, element by element.

    y = x Phi(x),   the exact form (erf), not the tanh approximation

Shapes: seq, vec or image, kept. No parameters, no matmul.
Paper: Hendrycks & Gimpel 2016, arXiv:1606.08415, eq. 1.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ops.spec import Op, TensorType, need, no_cost


class GELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x)


def _shape(x: TensorType) -> TensorType:
    need(x, "seq", "vec", "image")
    return x


OP = Op(
    name="gelu",
    module=GELU,
    shape=_shape,
    init=lambda x: {},
    cost=no_cost,
    causal=True,
    inline=lambda xs, params: f"F.gelu({xs[0]})",
    paper="arXiv:1606.08415",
)
