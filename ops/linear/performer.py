"""Performer (FAVOR+): softmax attention estimated by positive random features.

    x' = x K^(-1/4),   phi_r(x) = m^(-1/2) (exp(w_r . x' - |x'|^2 / 2 - c) + 1e-6),   r = 1..m
    S_t = S_{t-1} + phi(k_t) v_t^T,   z_t = z_{t-1} + phi(k_t)
    y_t = W_o concat_h  S_t^T phi(q_t) / (z_t . phi(q_t))

E[phi(q) . phi(k)] = exp(q . k / sqrt(K)) up to c, which cancels but for the 1e-6. For queries c is
the largest w_r . x' of the token; for keys that of all keys, or, causal, of the keys so far:
M_t = max_{s<=t} max_r w_r . k'_s. Then S_t = e^{M_{t-1} - M_t} S_{t-1} + phi(k_t) v_t^T, so that
no weight sees a later key and nothing overflows (c is a constant for the gradient).
`kind=relu`: phi_r(x) = relu(w_r . x') + 1e-3, c = 0.
w: orthogonal Gaussian rows in blocks of K, their lengths those of Gaussian vectors; drawn once from
the seed, kept with the weights, never trained or redrawn; the same for all heads.
Causal with the flag `causal`; else not causal. Shapes: x [B, T, D] -> [B, T, D], K = D / heads. z
is one more column of v, a column of ones. Mask: phi(k) = 0 at padding, which takes no part in c.
State (causal): [S | z], [B, heads, m, K + 1], and M [B, heads]. Cost: 4 D^2 parameters; 8 T D^2 +
4 T D m plus the recurrence (`chunked_flops`, or 4 T heads m (K + 1) without order).
Paper: Choromanski et al. 2020, arXiv:2009.14794, eq. 5 and section 2.3-2.4.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Int, Word
from ops.kernels.chunked import CHUNKED, chunked_decay, chunked_flops, decay_step
from ops.kernels.mixing import heads_first, heads_last
from ops.spec import Cost, Op, TensorType, need, need_divides


def orthogonal_rows(count: int, width: int, seed: int) -> Tensor:
    """[count, width]: orthogonal within blocks of `width` rows, of the lengths of Gaussian rows."""
    generator = torch.Generator().manual_seed(seed)
    blocks = -(-count // width)
    drawn = torch.randn(blocks, width, width, generator=generator, dtype=torch.float64)
    turned, upper = torch.linalg.qr(drawn)
    signed = turned * upper.diagonal(dim1=-2, dim2=-1).sign()[:, None]  # Haar, not QR's choice
    rows = signed.mT.reshape(-1, width)[:count]
    lengths = torch.randn(count, width, generator=generator, dtype=torch.float64).norm(dim=1)
    scaled: Tensor = (rows * lengths[:, None]).float()
    return scaled


class Performer(nn.Module):
    rows: Tensor

    def __init__(
        self, dim: int, heads: int, features: int, kind: str, causal: bool, seed: int
    ) -> None:
        super().__init__()
        self.heads, self.kind, self.causal = heads, kind, causal
        self.eps = 1e-6 if kind == "softmax" else 1e-3
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.register_buffer("rows", orthogonal_rows(features, dim // heads, seed))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """w x' and |x'|^2 / 2 of q and of k, [B, heads, T, m or 1], and v with a column of ones."""
        q, k, v = (heads_first(z, self.heads) for z in self.qkv(x).chunk(3, -1))
        wide = torch.promote_types(q.dtype, torch.float32)
        q, k = (z.to(wide) * z.shape[-1] ** -0.25 for z in (q, k))
        rows = self.rows.to(wide)
        half = [z.square().sum(-1, keepdim=True) / 2 for z in (q, k)]
        return q @ rows.T, half[0], k @ rows.T, half[1], F.pad(v.to(wide), (0, 1), value=1.0)

    def phi(self, seen: Tensor, half: Tensor, top: Tensor) -> Tensor:
        if self.kind == "relu":
            return F.relu(seen) + self.eps
        found: Tensor = ((seen - half - top).exp() + self.eps) * seen.shape[-1] ** -0.5
        return found

    def merge(self, y: Tensor, x: Tensor) -> Tensor:
        y = y[..., :-1] / y[..., -1:].clamp_min(1e-20)  # below any sum that has a term
        merged: Tensor = self.out(heads_last(y.to(x.dtype)))
        return merged

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, q_half, k, k_half, v = self.project(x)
        if mask is not None:
            k = k.masked_fill(~mask[:, None, :, None], torch.finfo(k.dtype).min)
        top = k.detach().amax(-1, keepdim=True)
        top = top.cummax(-2).values if self.causal else top.amax(-2, keepdim=True)
        keys = self.phi(k, k_half, top)
        if mask is not None:
            keys = keys * mask[:, None, :, None]
        queries = self.phi(q, q_half, q.detach().amax(-1, keepdim=True))
        if not self.causal:
            return self.merge(queries @ (keys.mT @ v), x)
        g = top.new_zeros(top.shape[:-1])
        if self.kind == "softmax":
            g = F.pad(-top[..., 0].diff(dim=-1), (1, 0))
        return self.merge(chunked_decay(queries, keys, v, g)[0], x)

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        weight, width = self.out.weight, self.out.in_features // self.heads
        wide = torch.promote_types(weight.dtype, torch.float32)
        sums = weight.new_zeros(batch, self.heads, len(self.rows), width + 1, dtype=wide)
        return sums, weight.new_full((batch, self.heads), torch.finfo(wide).min, dtype=wide)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q, q_half, k, k_half, v = (z[:, :, 0] for z in self.project(x))
        top = torch.maximum(state[1], k.detach().amax(-1))
        keys = self.phi(k, k_half, top[..., None])
        queries = self.phi(q, q_half, q.detach().amax(-1, keepdim=True))
        g = state[1] - top if self.kind == "softmax" else torch.zeros_like(top)
        y, sums = decay_step(queries, keys, v, g, state[0])
        return self.merge(y[:, :, None], x), (sums, top)


def _shape(x: TensorType, heads: int, **_: Any) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    return x


def _cost(x: TensorType, heads: int, features: int, causal: bool, **_: Any) -> Cost:
    t, d, width = x.length, x.dim, x.dim // heads
    core = 4 * t * heads * features * (width + 1)
    if causal:
        core = chunked_flops(t, heads, features, width + 1)
    state = 4 * heads * (features * (width + 1) + 1) if causal else 0
    kept = 4 * t * (4 * d + 6 * heads * features)
    return Cost(4 * d * d, 8 * t * d * d + 4 * t * d * features + core, kept, state)


OP = Op(
    name="performer",
    module=Performer,
    params={
        "heads": Int(1, 64),
        "features": Int(1, 4096, log=True, default=256),
        "kind": Word(("softmax", "relu"), default="softmax"),
        "causal": Flag(),
    },
    shape=_shape,
    cost=_cost,
    causal=lambda x, causal, **_: causal,
    mask="use",
    state=True,
    needs=("seed",),
    uses=(heads_first, heads_last, orthogonal_rows, *CHUNKED),
    paper="arXiv:2009.14794",
)
