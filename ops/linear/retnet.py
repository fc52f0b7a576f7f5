"""Retention: linear attention whose heads forget at fixed rates, with rotary positions.

    S_t = gamma_h S_{t-1} + k_t v_t^T,   gamma_h = 1 - 2^(-5-h), h = 0..H-1
    o_t = S_t^T q_t / sqrt(K)
    y = (RMS_V(o) * silu(x W_g)) W_o,   q and k rotated by their positions

Causal. Shapes: x [B, T, D] -> [B, T, D]; K = D / heads (even), V = expand_v K; the norm is over
each head and has no weight, eps 1e-5. Mask: k = 0 at padding (padding still ages the state).
State: S [B, heads, K, V] and the position. The row normalisation of the official parallel form is
left out: the norm cancels it. Cost, E = expand_v D: 2 D^2 + 3 D E parameters; twice that FLOPs a
token and `chunked_flops`.
Paper: Sun et al. 2023, arXiv:2307.08621, eq. 5-8.
"""

from typing import Any

import torch
from torch import Tensor, nn

from grammar.domain import Int
from ops.kernels.chunked import CHUNKED, chunked_decay, chunked_flops, decay_step
from ops.kernels.mixing import HEAD_OUTPUT, head_output, heads_first
from ops.kernels.positions import ROTARY, rotary
from ops.spec import Cost, Mismatch, Op, TensorType, need, need_divides


class Retention(nn.Module):
    decay: Tensor

    def __init__(self, dim: int, heads: int, expand_v: int = 2) -> None:
        super().__init__()
        self.heads, self.eps = heads, 1e-5
        self.key, self.value = dim // heads, expand_v * dim // heads
        self.qk = nn.Linear(dim, 2 * dim, bias=False)
        self.vg = nn.Linear(dim, 2 * expand_v * dim, bias=False)
        self.out = nn.Linear(expand_v * dim, dim, bias=False)
        rates = torch.log1p(-torch.exp2(-5.0 - torch.arange(heads)))
        self.register_buffer("decay", rates, persistent=False)

    def project(self, x: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q (scaled), k, v [B, heads, T, .] and the gate [B, T, E]."""
        q, k = rotary(heads_first(self.qk(x), 2 * self.heads), place).chunk(2, 1)
        v, gate = self.vg(x).chunk(2, -1)
        return q * self.key**-0.5, k, heads_first(v, self.heads), gate

    def merge(self, o: Tensor, gate: Tensor) -> Tensor:
        y: Tensor = self.out(head_output(o, gate, None, self.eps))
        return y

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v, gate = self.project(x, torch.arange(x.shape[1], device=x.device))
        if mask is not None:
            k = k * mask[:, None, :, None]
        return self.merge(chunked_decay(q, k, v, self.decay[:, None])[0], gate)

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        weight = self.out.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        state = weight.new_zeros(batch, self.heads, self.key, self.value, dtype=wide)
        return state, weight.new_zeros(1, dtype=torch.long)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q, k, v, gate = self.project(x, state[1])
        o, after = decay_step(q[:, :, 0], k[:, :, 0], v[:, :, 0], self.decay, state[0])
        return self.merge(o[:, :, None], gate), (after, state[1] + 1)


def _shape(x: TensorType, heads: int, expand_v: int) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    if x.dim // heads % 2:
        raise Mismatch(f"rotary positions need an even width, dim/heads={x.dim // heads}")
    return x


def _cost(x: TensorType, heads: int, expand_v: int) -> Cost:
    t, d, key = x.length, x.dim, x.dim // heads
    weights = (2 + 3 * expand_v) * d * d
    flops = 2 * t * weights + chunked_flops(t, heads, key, expand_v * key)
    return Cost(weights, flops, 4 * t * d * (6 + 5 * expand_v), 4 * expand_v * d * key + 8)


def _init(x: TensorType, heads: int, expand_v: int) -> dict[str, Any]:
    return {"dim": x.dim, "heads": heads, "expand_v": expand_v}


OP = Op(
    name="retnet",
    module=Retention,
    params={"heads": Int(1, 64, default=8), "expand_v": Int(1, 8, default=2)},
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=True,
    mask="use",
    state=True,
    uses=(heads_first, *HEAD_OUTPUT, *ROTARY, *CHUNKED),
    paper="arXiv:2307.08621",
)
