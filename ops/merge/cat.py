"""Concatenation of several values along one axis: `cat(a, b)`, `fork(a, b) >> cat`.

    y = [x_1, ..., x_n] along `axis`

`axis` counts the axes of one sample from 1; without it, the width: the last axis of seq and vec,
the channels (1) of an image. Axis 1 of a seq is time: not causal, and not for padded input.
Shapes: n values of one kind that differ along `axis` alone. No parameters, no matmul.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from grammar.domain import Int
from ops.shape.common import need_axis
from ops.spec import Mismatch, Op, TensorType, need, no_cost


class Cat(nn.Module):
    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *xs: Tensor) -> Tensor:
        return torch.cat(xs, self.axis)


def _axis(x: TensorType, axis: int | None) -> int:
    return axis or (1 if x.kind == "image" else len(x.shape))


def _shape(*xs: TensorType, axis: int | None) -> TensorType:
    if len(xs) < 2:
        raise Mismatch("needs two values or more", hint="write cat(a, b), or fork(a, b) before it")
    first, rest = xs[0], xs[1:]
    need(first, "seq", "vec", "image")
    at = _axis(first, axis) - 1
    for x in xs:
        need_axis(x, at + 1)
    for other in rest:
        along = [n for i, n in enumerate(other.shape) if i != at]
        if other.kind != first.kind or along != [n for i, n in enumerate(first.shape) if i != at]:
            raise Mismatch(
                f"{first} and {other} differ outside axis {at + 1}",
                hint=f"all values need one kind, and one size on every axis but {at + 1}",
            )
    shape = list(first.shape)
    shape[at] = sum(x.shape[at] for x in xs)
    grid = None if first.kind == "seq" and at == 0 else first.grid
    return replace(first, shape=tuple(shape), grid=grid, may_pad=any(x.may_pad for x in xs))


def _init(x: TensorType, *_: TensorType, axis: int | None) -> dict[str, Any]:
    return {"axis": _axis(x, axis)}


OP = Op(
    name="cat",
    module=Cat,
    variadic=True,
    params={"axis": Int(1, 3, default=None, none=True)},
    shape=_shape,
    init=_init,
    cost=no_cost,
    causal=lambda x, *_, axis: x.kind != "seq" or axis != 1,
)
