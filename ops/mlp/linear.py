"""Linear map of the last axis: y = x W^T + b.

Shapes: seq [B, T, D] -> [B, T, dim]; vec [B, D] -> [B, dim]; image [B, C, H, W] -> [B, C, H, dim]
(the last axis in every mode, as in einspace: Ericsson et al. 2024, arXiv:2405.20838).
Cost: D dim + dim parameters; 2 D dim FLOPs per vector.
"""

from typing import Any

from torch import Tensor, nn

from grammar.domain import Flag, Int
from ops.kernels.rows import AFFINE, affine
from ops.spec import Cost, Op, TensorType, need


class Linear(nn.Module):
    def __init__(self, dim: int, out: int, bias: bool = True) -> None:
        super().__init__()
        linear = nn.Linear(dim, out, bias=bias)
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return affine(x, self.weight, self.bias)


def _shape(x: TensorType, dim: int, bias: bool) -> TensorType:
    need(x, "seq", "vec", "image")
    return TensorType(x.kind, (*x.shape[:-1], dim), may_pad=x.may_pad, grid=x.grid)


def _cost(x: TensorType, dim: int, bias: bool) -> Cost:
    width = x.shape[-1]
    return Cost(width * dim + bias * dim, 2 * x.numel * dim)


def _init(x: TensorType, dim: int, bias: bool) -> dict[str, Any]:
    return {"dim": x.shape[-1], "out": dim, "bias": bias}


OP = Op(
    name="linear",
    module=Linear,
    params={"dim": Int(1, 65536, log=True), "bias": Flag(default=True)},
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=True,
    uses=AFFINE,
)
