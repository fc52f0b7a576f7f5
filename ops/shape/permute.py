"""Permutation of the axes of one sample, which `order` lists from 1.

    order=[2,1] on a seq:       y[d, t] = x[t, d]
    order=[3,1,2] on an image:  y[w, c, h] = x[c, h, w]

Shapes: seq (two axes) and image (three), sizes in the new order; the grid is lost when axes move.
No parameters, no matmul. Not causal when the token axis moves, and then not for padded input.
From einspace: Ericsson et al. 2024, arXiv:2405.20838.
"""

from torch import Tensor, nn

from grammar.domain import Ints
from ops.spec import Mismatch, Op, TensorType, need, no_cost


class Permute(nn.Module):
    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, *self.order)


def _shape(x: TensorType, order: tuple[int, ...]) -> TensorType:
    need(x, "seq", "image")
    axes = list(range(1, len(x.shape) + 1))
    if sorted(order) != axes:
        raise Mismatch(
            f"order={list(order)} does not order the {len(axes)} axes of {x}",
            param="order",
            hint=f"order needs each of {', '.join(map(str, axes))} once",
        )
    if list(order) == axes:
        return x
    if x.may_pad:
        raise Mismatch(
            "the token axis cannot move while the input may be padded",
            param="order",
            hint="pool first, or take an op that knows masks",
        )
    return TensorType(x.kind, tuple(x.shape[i - 1] for i in order))


OP = Op(
    name="permute",
    module=Permute,
    params={"order": Ints(1, 3, size=3)},
    shape=_shape,
    init=lambda x, order: {"order": order},
    cost=no_cost,
    causal=lambda x, order: x.kind != "seq" or order == (1, 2),
    inline=lambda xs, params: f"{xs[0]}.permute{(0, *params['order'])}",  # type: ignore[misc]  # Ints gives a tuple
    paper="arXiv:2405.20838",
)
