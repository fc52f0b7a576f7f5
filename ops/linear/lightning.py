"""Lightning attention (TransNormerLLM block): linear attention with a fixed decay in every head.

    q = silu(x W_q), k = silu(x W_k), v = x W_v, u = x W_u
    S_t = e^{-s_h} S_{t-1} + k_t v_t^T,   o_t = S_t^T q_t,   s_h = 2^{-8h/H}
    y = (SRMS_D(o) * u) W_o,   SRMS(o) = o / sqrt(mean_d o_d^2 + 1e-6)

Causal. Shapes: x [B, T, D] -> [B, T, D], K = D / heads; no 1/sqrt(K), no denominator, no bias.
The norm is over the merged D. Slopes are fixed and the same in every layer (the released models
let them fade with depth). Mask: v = 0 at padding. State: S [B, heads, K, K] is S_t after token t,
as in the paper; the official kernels keep e^{-s} S_t.
Cost: 5 D^2 parameters; 10 T D^2 + `chunked_flops`.
Paper: Qin et al. 2024, arXiv:2405.17381, eq. 11-14 and algorithm 5 (not its example code, which
puts silu on v, a layer norm and a low-rank sigmoid gate).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Int
from ops.kernels.chunked import CHUNKED, chunked_decay, chunked_flops, decay_step
from ops.kernels.mixing import HEAD_OUTPUT, head_output
from ops.kernels.positions import alibi_slopes
from ops.spec import Cost, Op, TensorType, need, need_divides


class Lightning(nn.Module):
    slopes: Tensor

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.eps = heads, 1e-6
        self.qkvu = nn.Linear(dim, 4 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.register_buffer("slopes", alibi_slopes(heads), persistent=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v [B, heads, T, K] and the gate u [B, T, D]."""
        q, k, v, u = self.qkvu(x).chunk(4, dim=-1)
        q, k, v = (
            z.unflatten(-1, (self.heads, -1)).transpose(1, 2) for z in (F.silu(q), F.silu(k), v)
        )
        return q, k, v, u

    def merge(self, o: Tensor, u: Tensor) -> Tensor:
        y: Tensor = self.out(head_output(o, u, None, self.eps, act="none", whole=True))
        return y

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v, u = self.project(x)
        if mask is not None:
            v = v * mask[:, None, :, None]
        o, _ = chunked_decay(q, k, v, -self.slopes[:, None])
        return self.merge(o, u)

    def init_state(self, batch: int, length: int) -> Tensor:
        width = self.out.in_features // self.heads
        wide = torch.promote_types(self.out.weight.dtype, torch.float32)
        return self.out.weight.new_zeros(batch, self.heads, width, width, dtype=wide)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v, u = self.project(x)
        o, state = decay_step(q[:, :, 0], k[:, :, 0], v[:, :, 0], -self.slopes, state)
        return self.merge(o[:, :, None], u), state


def _shape(x: TensorType, heads: int) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    return x


def _cost(x: TensorType, heads: int) -> Cost:
    t, d, width = x.length, x.dim, x.dim // heads
    flops = 10 * t * d * d + chunked_flops(t, heads, width, width)
    return Cost(5 * d * d, flops, 28 * t * d, 4 * d * width)


OP = Op(
    name="lightning",
    module=Lightning,
    params={"heads": Int(1, 64)},
    shape=_shape,
    cost=_cost,
    causal=True,
    mask="use",
    state=True,
    uses=(alibi_slopes, *HEAD_OUTPUT, *CHUNKED),
    paper="arXiv:2405.17381",
)
