"""Patch embedding: cut an image into squares that do not overlap, and map each to a token.

    y_p = W vec(x_p) + b

Shapes: image [B, C, H, W] -> seq [B, (H/size) (W/size), dim], row by row; the type keeps the grid.
Cost: dim C size^2 + dim parameters; 2 dim C H W FLOPs.
Paper: Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", arXiv:2010.11929, eq. 1.
"""

import math
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Int
from ops.spec import Cost, Mismatch, Op, TensorType, need, seq


class Patch(nn.Module):
    def __init__(self, dim: int, out: int, size: int, bias: bool = True) -> None:
        super().__init__()
        conv = nn.Conv2d(dim, out, size, bias=bias)
        self.weight, self.bias, self.size = conv.weight, conv.bias, size

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, stride=self.size).flatten(2).mT


def _shape(x: TensorType, dim: int, size: int, bias: bool) -> TensorType:
    need(x, "image")
    _, height, width = x.shape
    if height % size or width % size:
        common = math.gcd(height, width)
        fits = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        raise Mismatch(
            f"size={size} does not divide {height} x {width}",
            param="size",
            hint=f"size may be {fits} here",
        )
    grid = (height // size, width // size)
    return seq(grid[0] * grid[1], dim, grid=grid)


def _init(x: TensorType, dim: int, size: int, bias: bool) -> dict[str, Any]:
    return {"dim": x.dim, "out": dim, "size": size, "bias": bias}


def _cost(x: TensorType, dim: int, size: int, bias: bool) -> Cost:
    return Cost(dim * x.dim * size**2 + bias * dim, 2 * dim * x.numel)


OP = Op(
    name="patch",
    module=Patch,
    params={"dim": Int(1, 65536, log=True), "size": Int(1, 1024, log=True), "bias": Flag(True)},
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=False,
    paper="arXiv:2010.11929",
)
