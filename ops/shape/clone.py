"""Clone: one value several times, as a tuple.

    (x, ..., x),   `copies` of them

Shapes: any type -> a tuple of that type. No parameters, no matmul.
"""

from torch import Tensor, nn

from grammar.domain import Int
from ops.spec import Op, TensorType, no_cost


class Clone(nn.Module):
    def __init__(self, copies: int) -> None:
        super().__init__()
        self.copies = copies

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,) * self.copies


def _shape(x: TensorType, copies: int) -> tuple[TensorType, ...]:
    return (x,) * copies


OP = Op(
    name="clone",
    module=Clone,
    params={"copies": Int(2, 64, log=True)},
    shape=_shape,
    init=lambda x, copies: {"copies": copies},
    cost=no_cost,
    causal=True,
)
