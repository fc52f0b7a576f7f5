"""Squeeze-and-excitation: a gate for each channel, computed from the mean over all places.

    s = mean x,   e = sigmoid(W2 relu(W1 s + b1) + b2),   y = x * e

`causal` (seq only): s_t is the mean of x_1 .. x_t, and each token has its own gate.
Shapes: image [B, C, H, W] and seq [B, T, D], kept; hidden = max(8, D // ratio).
Mask: padded tokens take no part in the mean. State (causal): sum [B, 1, D] and count [1].
Cost: 2 D hidden + hidden + D parameters; 4 D hidden FLOPs, per token when causal.
Paper: Hu et al. 2017, "Squeeze-and-Excitation Networks", arXiv:1709.01507, section 3.
Differs: at least 8 hidden units; the causal form is ours.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Int
from ops.spec import Cost, Mismatch, Op, TensorType, need


class SqueezeExcite(nn.Module):
    def __init__(self, dim: int, hidden: int, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.down = nn.Linear(dim, hidden)
        self.up = nn.Linear(hidden, dim)

    def gate(self, mean: Tensor) -> Tensor:
        return torch.sigmoid(self.up(F.relu(self.down(mean))))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if x.dim() == 4:
            return x * self.gate(x.mean((2, 3)))[..., None, None]
        real = torch.ones_like(x[..., :1]) if mask is None else mask[..., None].to(x.dtype)
        if self.causal:
            total, count = (x * real).cumsum(1), real.cumsum(1)
        else:
            total, count = (x * real).sum(1, keepdim=True), real.sum(1, keepdim=True)
        return x * self.gate(total / count.clamp(min=1))

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        weight = self.down.weight
        return weight.new_zeros(batch, 1, weight.shape[1]), weight.new_zeros(1)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        total, count = state[0] + x, state[1] + 1
        return x * self.gate(total / count), (total, count)


def _hidden(x: TensorType, ratio: int) -> int:
    return max(8, x.dim // ratio)


def _shape(x: TensorType, ratio: int, causal: bool) -> TensorType:
    need(x, "image", "seq")
    if causal and x.kind == "image":
        raise Mismatch(f"{x} has no order of tokens", param="causal", hint="causal is for seq")
    return x


def _init(x: TensorType, ratio: int, causal: bool) -> dict[str, Any]:
    return {"dim": x.dim, "hidden": _hidden(x, ratio), "causal": causal}


def _cost(x: TensorType, ratio: int, causal: bool) -> Cost:
    hidden, dim = _hidden(x, ratio), x.dim
    gates = x.length if causal else 1
    return Cost(
        2 * dim * hidden + hidden + dim, 4 * gates * dim * hidden, state=4 * (dim + 1) * causal
    )


OP = Op(
    name="squeeze_excite",
    module=SqueezeExcite,
    params={"ratio": Int(1, 256, log=True, default=16), "causal": Flag()},
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=lambda x, ratio, causal: causal,
    mask="use",
    state=True,
    paper="arXiv:1709.01507",
)
