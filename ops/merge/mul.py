"""Product of several values of one shape, element by element: `mul(a, b)`, a gate.

    y = x_1 * ... * x_n

Shapes: n values of the same type -> that type. No parameters, no matmul.
"""

import math

from torch import Tensor, nn

from ops.merge.common import same_types
from ops.spec import Op, no_cost


class Mul(nn.Module):
    def forward(self, *xs: Tensor) -> Tensor:
        return math.prod(xs[1:], start=xs[0])


OP = Op(
    name="mul",
    module=Mul,
    variadic=True,
    shape=same_types,
    init=lambda *xs: {},
    cost=no_cost,
    causal=True,
    inline=lambda xs, params: " * ".join(xs),
)
