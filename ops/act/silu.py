"""SiLU: x weighted by its own sigmoid, element by element.

    y = x / (1 + exp(-x))

Shapes: seq, vec or image, kept. No parameters, no matmul.
Paper: Elfwing et al. 2017, arXiv:1702.03118, eq. 8.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ops.spec import Op, TensorType, need, no_cost


class SiLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)


def _shape(x: TensorType) -> TensorType:
    need(x, "seq", "vec", "image")
    return x


OP = Op(
    name="silu",
    module=SiLU,
    shape=_shape,
    init=lambda x: {},
    cost=no_cost,
    causal=True,
    inline=lambda xs, params: f"F.silu({xs[0]})",
    paper="arXiv:1702.03118",
)
