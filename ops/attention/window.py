"""Sliding-window attention: a token sees itself and the `window - 1` tokens before it.

    y_t = W_o concat_h sum_s softmax_s(q_t . k_s / sqrt(K)) v_s,   t - window < s <= t

Causal. Shapes: x [B, T, D] -> [B, T, D], D = heads K. Computed in blocks of C = max(window, 32)
queries against their own block and the one before, on a GPU by the sparse engine: linear in T.
`pos`: rotary on q and k by absolute place.
Mask: keys at padding are left out (a padded query sees itself only). State: a ring of the last R =
min(window, length) keys and values, 2 [B, heads, R, K], and the position.
Cost: 4 D^2 parameters; per sequence 8 T D^2 + 8 T' C D FLOPs, T' = T rounded up to C (4 T^2 D if C
>= T).
Paper: Beltagy et al. 2020, "Longformer", arXiv:2004.05150, section 3.1. Differs: no global tokens.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Int, Word
from ops.kernels.dispatch import on_triton
from ops.kernels.positions import ROTARY, rotary
from ops.kernels.sparse import SPARSE, SparsePattern, sparse_attention
from ops.spec import Cost, Mismatch, Op, TensorType, need, need_divides


class WindowAttention(nn.Module):
    def __init__(self, dim: int, heads: int, window: int, pos: str = "none") -> None:
        super().__init__()
        self.heads, self.window, self.pos = heads, window, pos
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def project(self, x: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v [B, heads, T, K]."""
        qkv = torch.unflatten(self.qkv(x), -1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if self.pos == "rope":
            q, k = rotary(q, position), rotary(k, position)
        return q, k, v

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.project(x, torch.arange(t, device=x.device))
        if on_triton(q, k, v):
            pattern = SparsePattern(self.window - 1, 0)
            y, _ = sparse_attention(q, k, v, pattern, real=mask, own=True)
            return self.merge(y)
        size = min(max(self.window, 32), t)
        pad = -t % size
        count = (t + pad) // size
        before = size if count > 1 else 0
        q = torch.unflatten(F.pad(q, (0, 0, 0, pad)), 2, (count, size))
        k, v = (F.pad(z, (0, 0, before, pad)).unfold(2, before + size, size).mT for z in (k, v))
        row = torch.arange(size, device=x.device)[:, None] + before
        age = row - torch.arange(before + size, device=x.device)
        key = torch.arange(-before, t + pad, device=x.device).unfold(0, before + size, size)
        seen = ((age >= 0) & (age < self.window) & (key >= 0)[:, None])[None]
        if mask is not None:
            real = F.pad(mask, (before, pad)).unfold(1, before + size, size)
            seen = (seen & real[:, :, None]) | (age == 0)
        seen = seen.expand(b, -1, -1, -1).flatten(0, 1)[:, None]
        q, k, v = (z.transpose(1, 2).flatten(0, 1) for z in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        y = y.transpose(1, 2).reshape(b, t + pad, -1)[:, :t]
        out: Tensor = self.out(y)
        return out

    def merge(self, y: Tensor) -> Tensor:
        """[B, heads, T, K] -> [B, T, D]."""
        merged: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return merged

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        weight = self.out.weight
        width = weight.shape[0] // self.heads
        ring = weight.new_zeros(2, batch, self.heads, min(self.window, length), width)
        return ring[0], ring[1], torch.zeros(1, dtype=torch.long, device=ring.device)

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        keys, values, position = state
        q, k, v = self.project(x, position)
        slots = keys.shape[2]
        keys = keys.index_copy(2, position % slots, k)
        values = values.index_copy(2, position % slots, v)
        filled = torch.arange(slots, device=x.device)[None] <= position
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=filled)
        return self.merge(y), (keys, values, position + 1)


def _shape(x: TensorType, heads: int, window: int, pos: str) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    if pos == "rope" and x.dim // heads % 2:
        raise Mismatch(f"rotary needs an even head width, got {x.dim // heads}", param="pos")
    return x


def _cost(x: TensorType, heads: int, window: int, pos: str) -> Cost:
    t, d = x.length, x.dim
    size = min(max(window, 32), t)
    padded = -(-t // size) * size
    keys = t if size == t else 2 * size
    flops = 8 * t * d * d + 4 * padded * keys * d
    return Cost(4 * d * d, flops, 16 * t * d, 8 * min(window, t) * d + 8)


OP = Op(
    name="window_attn",
    module=WindowAttention,
    params={
        "heads": Int(1, 64),
        "window": Int(1, 65536, log=True),
        "pos": Word(("none", "rope"), default="none"),
    },
    shape=_shape,
    cost=_cost,
    causal=True,
    mask="use",
    state=True,
    uses=(*ROTARY, *SPARSE),
    paper="arXiv:2004.05150",
)
