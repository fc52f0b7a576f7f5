"""The chunked recurrence S_t = e^{g_t} S_{t-1} + k_t v_t^T, o_t = S_t^T q_t; one decay a head.

Inside a chunk of C tokens with G_i = g_1 + ... + g_i (paper convention: S after a chunk is S_t):

    o_i = e^{G_i} S^T q_i + sum_{j<=i} e^{G_i - G_j} (q_i . k_j) v_j
    S  <- e^{G_C} S + sum_j e^{G_C - G_j} k_j v_j^T

Shapes: q, k [B, H, T, K], v [B, H, T, V], g broadcastable to [B, H, T], S [B, H, K, V]. g <= 0, so
that no exponent is positive. fp32 inside (float64 for float64), with or without autocast.
Time O(T C (K + V) + T K V) a head; no T x T matrix.
Paper: Qin et al. 2024, arXiv:2405.17381, algorithm 5 with a decay of each token's own.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def chunked_decay(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor | None = None, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """All outputs [B, H, T, V] in the dtype of `q`, and the last state in fp32."""
    b, h, t, width = q.shape
    wide = torch.promote_types(q.dtype, torch.float32)
    size = min(chunk, t)
    pad = -t % size
    with torch.autocast(q.device.type, enabled=False):
        qs, ks, vs = (
            F.pad(x.to(wide), (0, 0, 0, pad)).view(b, h, -1, size, x.shape[-1]) for x in (q, k, v)
        )
        total = F.pad(g.to(wide).expand(b, h, t), (0, pad)).view(b, h, -1, size).cumsum(-1)
        later = torch.ones(size, size, dtype=torch.bool, device=q.device).triu(1)
        ages = (total[..., :, None] - total[..., None, :]).masked_fill(later, float("-inf"))
        inside = ((qs @ ks.mT) * ages.exp()) @ vs
        last = total[..., -1:]
        added = (ks * (last - total).exp()[..., None]).mT @ vs
        if state is None:
            state = added.new_zeros(b, h, width, v.shape[-1])
        before = []
        for n in range(added.shape[2]):
            before.append(state)
            state = last[:, :, n, :, None].exp() * state + added[:, :, n]
        carried = (qs * total.exp()[..., None]) @ torch.stack(before, dim=2)
        out = (inside + carried).flatten(2, 3)[:, :, :t]
    return out.to(q.dtype), state


def decay_step(q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token of the same recurrence: q, k [B, H, K], v [B, H, V], g broadcastable to [B, H]."""
    decay = g.to(state.dtype).exp()[..., None, None]
    state = decay * state + k.to(state.dtype)[..., :, None] * v.to(state.dtype)[..., None, :]
    return (q.to(state.dtype)[..., None] * state).sum(-2).to(q.dtype), state


def chunked_flops(length: int, heads: int, key: int, value: int, chunk: int = 64) -> int:
    """What `chunked_decay` multiplies for one sequence."""
    size = min(chunk, length)
    padded = -(-length // size) * size
    return 2 * padded * heads * (size * (key + value) + 2 * key * value)
