"""cosFormer: relu features, reweighted by the cosine of the distance of two tokens.

    w_ts = relu(q_t) . relu(k_s) cos(a_t - a_s),   a_t = pi t / (2 M),   M >= T
    y_t = W_o concat_h  sum_s w_ts v_s / (sum_s w_ts + eps),   eps = 1e-6

The cosine of a difference splits: phi(q_t) = [relu(q_t) cos a_t; relu(q_t) sin a_t], k too, and
S_t = S_{t-1} + phi(k_t) v_t^T as in linear attention. Causal with the flag `causal`; else not
causal. `reach` is M, else T: all weights are >= 0 as long as no sequence is longer than M.
Shapes: x [B, T, D] -> [B, T, D], K = D / heads. z is one more column of v, a column of ones. Mask:
phi(k) = 0 at padding. State (causal): [S | z], [B, heads, 2 K, K + 1], and the position.
Cost: 4 D^2 parameters; 8 T D^2 plus the recurrence (`chunked_flops`, or 8 T D (K + 1) unordered).
Paper: Qin et al. 2022, arXiv:2202.08791, eq. 8-11. Differs: eps is added, not a lower bound.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Int
from ops.kernels.chunked import CHUNKED, chunked_decay, chunked_flops, decay_step
from ops.kernels.mixing import heads_first, heads_last
from ops.spec import Cost, Mismatch, Op, TensorType, need, need_divides


class CosFormer(nn.Module):
    def __init__(self, dim: int, heads: int, reach: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.reach, self.causal, self.eps = heads, reach, causal, 1e-6
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def project(self, x: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """phi(q), phi(k) [B, heads, T, 2 K] and v with a column of ones."""
        q, k, v = (heads_first(z, self.heads) for z in self.qkv(x).chunk(3, -1))
        wide = torch.promote_types(q.dtype, torch.float32)
        angle = (place.to(wide) * (math.pi / (2 * self.reach)))[:, None]
        turn = torch.stack([angle.cos(), angle.sin()], dim=-2)
        q, k = ((F.relu(z.to(wide))[..., None, :] * turn).flatten(-2) for z in (q, k))
        return q, k, F.pad(v.to(wide), (0, 1), value=1.0)

    def merge(self, y: Tensor, x: Tensor) -> Tensor:
        y = y[..., :-1] / (y[..., -1:] + self.eps)
        merged: Tensor = self.out(heads_last(y.to(x.dtype)))
        return merged

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.project(x, torch.arange(x.shape[1], device=x.device))
        if mask is not None:
            k = k * mask[:, None, :, None]
        if self.causal:
            y, _ = chunked_decay(q, k, v, q.new_zeros(1))
        else:
            y = q @ (k.mT @ v)
        return self.merge(y, x)

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        weight, width = self.out.weight, self.out.in_features // self.heads
        wide = torch.promote_types(weight.dtype, torch.float32)
        state = weight.new_zeros(batch, self.heads, 2 * width, width + 1, dtype=wide)
        return state, weight.new_zeros(1, dtype=torch.long)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q, k, v = (z[:, :, 0] for z in self.project(x, state[1]))
        y, after = decay_step(q, k, v, q.new_zeros(1), state[0])
        return self.merge(y[:, :, None], x), (after, state[1] + 1)


def _shape(x: TensorType, heads: int, reach: int | None, causal: bool) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    if reach is not None and reach < x.length:
        raise Mismatch(
            f"reach={reach} is below the length {x.length}",
            param="reach",
            hint=f"reach must be at least {x.length} here, or left out",
        )
    return x


def _init(x: TensorType, heads: int, reach: int | None, causal: bool) -> dict[str, Any]:
    return {"dim": x.dim, "heads": heads, "reach": reach or x.length, "causal": causal}


def _cost(x: TensorType, heads: int, reach: int | None, causal: bool) -> Cost:
    t, d, width = x.length, x.dim, x.dim // heads
    unordered = 8 * t * d * (width + 1)
    core = chunked_flops(t, heads, 2 * width, width + 1) if causal else unordered
    state = 8 * d * (width + 1) + 8 if causal else 0
    return Cost(4 * d * d, 8 * t * d * d + core, 28 * t * d, state)


OP = Op(
    name="cosformer",
    module=CosFormer,
    params={
        "heads": Int(1, 64),
        "reach": Int(1, 1 << 20, default=None, none=True),
        "causal": Flag(),
    },
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=lambda x, causal, **_: causal,
    mask="use",
    state=True,
    uses=(heads_first, heads_last, *CHUNKED),
    paper="arXiv:2202.08791",
)
