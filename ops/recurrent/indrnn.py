"""IndRNN: every channel is a recurrent unit of its own, with one weight to its own past.

    h_t = relu(W x_t + b + u * h_{t-1}),  h_0 = 0

Causal. Shapes: x [B, T, D] -> [B, T, dim] (default dim = D). Although relu stands between the
steps, training is parallel: see `relu_scan`.
u starts uniform in [0, 2^(1/T)] for the T given: |u|^T <= 2, the paper's bound, so that no gradient
explodes over one sequence. It is not clamped afterwards.
Mask: padding on the right changes no token before it, so none is taken. State: h [B, dim].
Cost: D dim + 2 dim parameters (D dim + dim without bias), 2 T D dim FLOPs.
Paper: Li et al. 2018, "Independently Recurrent Neural Network", arXiv:1803.04831, eq. 2, 5.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Int
from ops.kernels.scan import RELU_SCAN, relu_scan
from ops.spec import Cost, Op, TensorType, need


class IndRNN(nn.Module):
    def __init__(self, dim: int, hidden: int, length: int, bias: bool = True) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, hidden, bias=bias)
        self.past = nn.Parameter(torch.rand(hidden) * 2 ** (1 / length))

    def forward(self, x: Tensor) -> Tensor:
        return relu_scan(self.past, self.enter(x))

    def init_state(self, batch: int, length: int) -> Tensor:
        wide = torch.promote_types(self.past.dtype, torch.float32)
        return self.past.new_zeros(batch, self.past.shape[0], dtype=wide)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        w = self.enter(x)
        state = F.relu(w[:, 0].to(state.dtype) + self.past.to(state.dtype) * state)
        return state[:, None].to(w.dtype), state


def _width(x: TensorType, dim: int | None) -> int:
    return x.dim if dim is None else dim


def _shape(x: TensorType, dim: int | None, bias: bool) -> TensorType:
    need(x, "seq")
    return x.with_dim(_width(x, dim))


def _init(x: TensorType, dim: int | None, bias: bool) -> dict[str, Any]:
    return {"dim": x.dim, "hidden": _width(x, dim), "length": x.length, "bias": bias}


def _cost(x: TensorType, dim: int | None, bias: bool) -> Cost:
    t, d, h = x.length, x.dim, _width(x, dim)
    levels = max(1, (t - 1).bit_length())
    return Cost(d * h + (1 + bias) * h, 2 * t * d * h, 4 * t * h * (3 + 2 * levels), 4 * h)


OP = Op(
    name="indrnn",
    module=IndRNN,
    params={
        "dim": Int(1, 65536, log=True, default=None, none=True),
        "bias": Flag(default=True),
    },
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=True,
    state=True,
    uses=RELU_SCAN,
    paper="arXiv:1803.04831",
)
