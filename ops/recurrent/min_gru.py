"""minGRU: a GRU whose gates do not read the state, so that training is a parallel scan.

    z = sig(W_z x),  c = g(W_h x),  h_t = (1 - z_t) h_{t-1} + z_t c_t,  h_0 = 0
    g(u) = u + 1/2 for u >= 0, sig(u) below: positive, as the published log-space form requires

Causal. Shapes: x [B, T, D] -> [B, T, D], hidden width E = expansion D, and W_o [E, D] if it is > 1.
The scan runs on (1 - z, z c) themselves in log2(T) steps: both are >= 0 and 1 - z <= 1, so nothing
cancels or overflows, and the result is that of the paper's logcumsumexp.
Mask: padding on the right changes no token before it, so none is taken.
State: h [B, E]. Cost: 2 D E + 2 E (+ E D) parameters; 4 T D E (+ 2 T E D) FLOPs.
Paper: Feng et al. 2024, "Were RNNs All We Needed?", arXiv:2410.01201, sections 3.1 and B.
"""

from typing import Any

import torch
from torch import Tensor, nn

from grammar.domain import Flag, Int
from ops.kernels.scan import GATED_SCAN, gate_terms, gated_scan
from ops.spec import Cost, Op, TensorType, need


class MinGRU(nn.Module):
    def __init__(self, dim: int, hidden: int, bias: bool = True) -> None:
        super().__init__()
        self.gates = nn.Linear(dim, 2 * hidden, bias=bias)
        self.out = nn.Linear(hidden, dim, bias=False) if hidden != dim else None

    def merge(self, h: Tensor, x: Tensor) -> Tensor:
        return h.to(x.dtype) if self.out is None else self.out(h.to(x.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(gated_scan(self.gates(x), "gru"), x)

    def init_state(self, batch: int, length: int) -> Tensor:
        weight = self.gates.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        return weight.new_zeros(batch, weight.shape[0] // 2, dtype=wide)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        a, b = gate_terms(self.gates(x), "gru")
        state = a[:, 0] * state + b[:, 0]
        return self.merge(state[:, None], x), state


def _shape(x: TensorType, expansion: int, bias: bool) -> TensorType:
    need(x, "seq")
    return x


def _init(x: TensorType, expansion: int, bias: bool) -> dict[str, Any]:
    return {"dim": x.dim, "hidden": expansion * x.dim, "bias": bias}


def _cost(x: TensorType, expansion: int, bias: bool) -> Cost:
    t, d, e = x.length, x.dim, expansion * x.dim
    weights = 2 * d * e + (e * d if e != d else 0)
    levels = max(1, (t - 1).bit_length())
    return Cost(weights + bias * 2 * e, 2 * t * weights, 4 * t * e * (4 + 2 * levels), 4 * e)


OP = Op(
    name="min_gru",
    module=MinGRU,
    params={"expansion": Int(1, 4, default=1), "bias": Flag(default=True)},
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=True,
    state=True,
    uses=GATED_SCAN,
    paper="arXiv:2410.01201",
)
