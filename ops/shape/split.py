"""Split: one value in equal parts along one axis, as a tuple; `cat` along that axis undoes it.

    (x_1, ..., x_parts),   each 1 / parts of `axis`

`axis` counts the axes of one sample from 1. Axis 1 of a seq is time: not causal, and not
for padded input. Shapes: seq, vec or image -> a tuple. No parameters, no matmul.
"""

from dataclasses import replace

from torch import Tensor, nn

from grammar.domain import Int
from ops.shape.common import need_axis
from ops.spec import Mismatch, Op, TensorType, need, no_cost


class Split(nn.Module):
    def __init__(self, axis: int, parts: int) -> None:
        super().__init__()
        self.axis, self.parts = axis, parts

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.chunk(self.parts, self.axis)


def _shape(x: TensorType, axis: int, parts: int) -> tuple[TensorType, ...]:
    need(x, "seq", "vec", "image")
    need_axis(x, axis)
    size = x.shape[axis - 1]
    if size % parts:
        fits = ", ".join(str(n) for n in range(2, min(size, 64) + 1) if size % n == 0)
        raise Mismatch(
            f"parts={parts} does not divide {size}, axis {axis} of {x}",
            param="parts",
            hint=f"parts may be {fits} here" if fits else "split another axis",
        )
    shape = (*x.shape[: axis - 1], size // parts, *x.shape[axis:])
    grid = None if x.kind == "seq" and axis == 1 else x.grid
    return (replace(x, shape=shape, grid=grid),) * parts


OP = Op(
    name="split",
    module=Split,
    params={"axis": Int(1, 3), "parts": Int(2, 64, log=True)},
    shape=_shape,
    init=lambda x, axis, parts: {"axis": axis, "parts": parts},
    cost=no_cost,
    causal=lambda x, axis, parts: x.kind != "seq" or axis != 1,
)
