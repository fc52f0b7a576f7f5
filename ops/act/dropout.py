"""Dropout: in training each number is zero with probability `p`, the others grow to keep the mean.

    y = x m / (1 - p),   m ~ Bernoulli(1 - p);   eval: y = x

Shapes: seq, vec or image, kept. No parameters, no matmul.
Paper: Srivastava et al. 2014, "Dropout", JMLR 15, section 4.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Float
from ops.spec import Op, TensorType, need, no_cost


class Dropout(nn.Module):
    def __init__(self, p: float = 0.1) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training)


def _shape(x: TensorType, p: float) -> TensorType:
    need(x, "seq", "vec", "image")
    return x


OP = Op(
    name="dropout",
    module=Dropout,
    params={"p": Float(0.0, 0.95, default=0.1)},
    shape=_shape,
    init=lambda x, p: {"p": p},
    cost=no_cost,
    causal=True,
)
