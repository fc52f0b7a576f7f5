"""Linear attention: softmax replaced by the feature map phi = elu + 1; the state is constant.

    S_t = S_{t-1} + phi(k_t) v_t^T,   z_t = z_{t-1} + phi(k_t)
    y_t = W_o concat_h  S_t^T phi(q_t) / (z_t . phi(q_t) + eps),   eps = 1e-6

Causal with the flag `causal`; else not causal: one S and z over all tokens. Shapes: x [B, T, D] ->
[B, T, D], K = D / heads. z is one more column of v, a column of ones. Mask: phi(k) = 0 at padding.
State (causal): [S | z], [B, heads, K, K + 1]. Cost: 4 D^2 parameters; 8 T D^2 plus the recurrence
(`chunked_flops`, or 4 T D (K + 1) without order).
Paper: Katharopoulos et al. 2020, arXiv:2006.16236, eq. 8-12.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Int
from ops.kernels.chunked import CHUNKED, chunked_decay, chunked_flops, decay_step
from ops.spec import Cost, Op, TensorType, need, need_divides


class LinearAttention(nn.Module):
    def __init__(self, dim: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal, self.eps = heads, causal, 1e-6
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """phi(q), phi(k) and v with a column of ones: [B, heads, T, K] and K + 1."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        wide = torch.promote_types(q.dtype, torch.float32)
        return F.elu(q.to(wide)) + 1, F.elu(k.to(wide)) + 1, F.pad(v.to(wide), (0, 1), value=1.0)

    def merge(self, y: Tensor, x: Tensor) -> Tensor:
        y = y[..., :-1] / (y[..., -1:] + self.eps)
        merged: Tensor = self.out(y.to(x.dtype).transpose(1, 2).flatten(2))
        return merged

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.project(x)
        if mask is not None:
            k = k * mask[:, None, :, None]
        if self.causal:
            y, _ = chunked_decay(q, k, v, q.new_zeros(1))
        else:
            y = q @ (k.mT @ v)
        return self.merge(y, x)

    def init_state(self, batch: int, length: int) -> Tensor:
        width = self.out.in_features // self.heads
        wide = torch.promote_types(self.out.weight.dtype, torch.float32)
        return self.out.weight.new_zeros(batch, self.heads, width, width + 1, dtype=wide)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = (z[:, :, 0] for z in self.project(x))
        y, state = decay_step(q, k, v, q.new_zeros(1), state)
        return self.merge(y[:, :, None], x), state


def _shape(x: TensorType, heads: int, causal: bool) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    return x


def _cost(x: TensorType, heads: int, causal: bool) -> Cost:
    t, d, width = x.length, x.dim, x.dim // heads
    core = chunked_flops(t, heads, width, width + 1) if causal else 4 * t * d * (width + 1)
    state = 4 * d * (width + 1) if causal else 0
    return Cost(4 * d * d, 8 * t * d * d + core, 20 * t * d, state)


OP = Op(
    name="linear_attn",
    module=LinearAttention,
    params={"heads": Int(1, 64), "causal": Flag()},
    shape=_shape,
    cost=_cost,
    causal=lambda x, causal, **_: causal,
    mask="use",
    state=True,
    uses=CHUNKED,
    paper="arXiv:2006.16236",
)
