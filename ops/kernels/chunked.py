"""The chunked recurrence S_t = e^{g_t} S_{t-1} + k_t v_t^T, o_t = S_t^T q_t; one decay a head.

Inside a chunk of C tokens with G_ij = g_{j+1} + ... + g_i (paper convention: S after a chunk is
S_t) and G_i = g_1 + ... + g_i:

    o_i = e^{G_i} S^T q_i + sum_{j<=i} e^{G_ij} (q_i . k_j) v_j
    S  <- e^{G_C} S + sum_j e^{G_Cj} k_j v_j^T

Shapes: q, k [B, H or 1, T, K] (1: all heads share them), v [B, H, T, V], g broadcastable to
[B, H, T], S [B, H, K, V]. g <= 0, so that no exponent is positive; every G_ij is a sum of its own,
never a difference of two, so that a token with g = -1e5 (or -inf) spoils nothing behind it. fp32
inside (float64 for float64), with or without autocast.
Time O(T C (K + V) + T K V) a head; no T x T matrix.
Paper: Qin et al. 2024, arXiv:2405.17381, algorithm 5 with a decay of each token's own; the sums as
in Dao & Gu 2024, arXiv:2405.21060, listing 1.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.kernels.chunked_launch import DECAY_KERNELS, decay_triton
from ops.kernels.dispatch import on_triton


def segment_sums(g: Tensor) -> Tensor:
    """[..., C, K] -> [..., C, C, K]: the sum of g over j < r <= i at (i, j); -inf where j > i."""
    order = torch.arange(g.shape[-2], device=g.device)
    outside = (order[:, None] <= order)[..., None]
    sums = g[..., :, None, :].masked_fill(outside, 0.0).cumsum(-3)
    return sums.masked_fill((order[:, None] < order)[..., None], float("-inf"))


def split_chunks(x: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """[..., T, K] -> [..., N, C, K] in `dtype`, the last chunk filled up with zeros."""
    filled = F.pad(x.to(dtype), (0, 0, 0, -x.shape[-2] % size))
    return filled.reshape(*x.shape[:-2], -1, size, x.shape[-1])


def chunked_decay(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor | None = None, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """All outputs [B, H, T, V] in the dtype of `v`, and the last state in fp32.

    On a GPU the Triton engine serves K, V <= 256; what follows here is its specification.
    """
    b, h, t, value = v.shape
    if on_triton(q, k, v) and max(k.shape[-1], value) <= 256:
        return decay_triton(q, k, v, g, state)
    wide = torch.promote_types(v.dtype, torch.float32)
    size = min(chunk, t)
    with torch.autocast(v.device.type, enabled=False):
        g = g.reshape(*(1,) * (3 - g.dim()), *g.shape)
        g = g.expand(*g.shape[:2], t)[..., None]
        qs, ks, vs, gs = (split_chunks(x, size, wide) for x in (q, k, v, g))
        sums, total = segment_sums(gs), gs.cumsum(-2)
        inside = ((qs @ ks.mT) * sums[..., 0].exp()) @ vs
        added = (ks * sums[..., -1, :, :].exp()).mT @ vs
        whole = total[..., -1:, :].exp()
        if state is None:
            state = added.new_zeros(b, h, k.shape[-1], value)
        before = []
        for n in range(added.shape[2]):
            before.append(state)
            state = whole[:, :, n] * state + added[:, :, n]
        carried = (qs * total.exp()) @ torch.stack(before, dim=2)
        out = (inside + carried).flatten(2, 3)[:, :, :t]
    return out.to(v.dtype), state


def decay_step(q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token: q, k [B, H or 1, K], v [B, H, V], g broadcastable to [B, H]."""
    decay = g.to(state.dtype).exp()[..., None, None]
    state = decay * state + k.to(state.dtype)[..., :, None] * v.to(state.dtype)[..., None, :]
    return (q.to(state.dtype)[..., None] * state).sum(-2).to(v.dtype), state


def chunked_flops(
    length: int, heads: int, key: int, value: int, chunk: int = 64, shared: bool = False
) -> int:
    """What `chunked_decay` multiplies for one sequence; `shared`: all heads have one q and k."""
    size = min(chunk, length)
    padded = -(-length // size) * size
    scores = size * key * (1 if shared else heads)
    return 2 * padded * (scores + heads * (size * value + 2 * key * value))


# What an op lists in `uses` for this engine.
CHUNKED: tuple[Callable[..., Any], ...] = (
    on_triton,
    *DECAY_KERNELS,
    segment_sums,
    split_chunks,
    chunked_decay,
    decay_step,
)
