"""MLP: two linear maps with an activation between them, on each vector.

    y = act(x W_1 + b_1) W_2 + b_2

Shapes: seq [B, T, D] and vec [B, D], kept; hidden = mult * D, rounded to a whole number.
Cost: 2 D hidden + hidden + D parameters; 4 D hidden FLOPs per vector.
Paper: Vaswani et al. 2017, arXiv:1706.03762, section 3.3 (with relu; gelu here, as is usual since).
"""

from typing import Any

from torch import Tensor, nn

from grammar.domain import Flag, Float, Word
from ops.kernels.rows import AFFINE, affine
from ops.mlp.common import mlp_shape
from ops.spec import Cost, Op, TensorType


class MLP(nn.Module):
    def __init__(self, dim: int, hidden: int, act: str = "gelu", bias: bool = True) -> None:
        super().__init__()
        self.act = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}[act]()
        self.up = nn.Linear(dim, hidden, bias=bias)
        self.down = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(affine(x, self.up.weight, self.up.bias))
        return affine(hidden, self.down.weight, self.down.bias)


def _hidden(x: TensorType, mult: float) -> int:
    return max(1, round(mult * x.dim))


def _init(x: TensorType, mult: float, act: str, bias: bool) -> dict[str, Any]:
    return {"dim": x.dim, "hidden": _hidden(x, mult), "act": act, "bias": bias}


def _cost(x: TensorType, mult: float, act: str, bias: bool) -> Cost:
    hidden = _hidden(x, mult)
    return Cost(2 * x.dim * hidden + bias * (hidden + x.dim), 4 * x.numel * hidden)


OP = Op(
    name="mlp",
    module=MLP,
    params={
        "mult": Float(0.125, 16.0, default=4.0),
        "act": Word(("gelu", "relu", "silu"), default="gelu"),
        "bias": Flag(default=True),
    },
    shape=mlp_shape,
    init=_init,
    cost=_cost,
    causal=True,
    uses=AFFINE,
    paper="arXiv:1706.03762",
)
