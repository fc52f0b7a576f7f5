"""The chunked recurrence with a decay for every key channel (GLA, HGRN-2, RWKV-6).

    S_t = diag(e^{g_t}) S_{t-1} + k_t v_t^T

    o_t = S_t^T q_t, or with `bonus` u, as in RWKV-6: o_t = (S_{t-1} + diag(u) k_t v_t^T)^T q_t

Inside a chunk of C tokens, G_ij = g_{j+1} + ... + g_i (a vector over K), G_i = g_1 + ... + g_i:

    o_i = S^T (e^{G_i} * q_i) + sum_{j<=i} (sum_c q_ic k_jc e^{G_ijc}) v_j
    S  <- diag(e^{G_C}) S + sum_j (e^{G_Cj} * k_j) v_j^T

with G_{i-1} for G_i and the term j = i replaced by (q_i . (u * k_i)) v_i under `bonus`. The factors
e^{G_i} and e^{-G_j} never stand alone: e^{-G_j} overflows after a few strong gates. So the scores
cost T C K exponentials, elementwise, and chunks are short.
Shapes: q, k, g [B, H, T, K], v [B, H, T, V], u [H, K], S [B, H, K, V]; g <= 0 (-inf too). fp32
inside (float64 for float64).
Papers: Yang et al. 2023, arXiv:2312.06635, section 4 (secondary chunking, here one level); Peng et
al. 2024, arXiv:2404.05892, eq. 19 (bonus).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.kernels.chunked import segment_sums, split_chunks
from ops.kernels.diagonal_launch import DIAGONAL_KERNELS, diagonal_triton
from ops.kernels.dispatch import on_triton


def chunked_diagonal(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    state: Tensor | None = None,
    bonus: Tensor | None = None,
    chunk: int = 16,
) -> tuple[Tensor, Tensor]:
    """All outputs [B, H, T, V] in the dtype of `v`, and the last state in fp32.

    On a GPU the Triton engine serves K, V <= 256 without a bonus; what follows here is its
    specification.
    """
    b, h, t, value = v.shape
    if on_triton(q, k, v) and bonus is None and max(k.shape[-1], value) <= 256:
        return diagonal_triton(q, k, v, g, state)
    wide = torch.promote_types(v.dtype, torch.float32)
    size = min(chunk, t)
    with torch.autocast(v.device.type, enabled=False):
        qs, ks, vs, gs = (split_chunks(x, size, wide) for x in (q, k, v, g))
        decay, reach = segment_sums(gs).exp(), gs.cumsum(-2).exp()
        added = (ks * decay[..., -1, :, :]).mT @ vs
        whole = reach[..., -1, :, None]
        if bonus is not None:  # S_{t-1}: one decay less; row 0 of a chunk sees the state alone
            decay = F.pad(decay[..., :-1, :, :], (0, 0, 0, 0, 1, 0))
            reach = F.pad(reach[..., :-1, :], (0, 0, 1, 0), value=1.0)
        scores = (decay * ks[..., None, :, :] * qs[..., :, None, :]).sum(-1)
        if bonus is not None:
            own = (qs * bonus.to(wide)[:, None, None] * ks).sum(-1)
            scores = scores + torch.diag_embed(own)
        if state is None:
            state = added.new_zeros(b, h, k.shape[-1], value)
        before = []
        for n in range(added.shape[2]):
            before.append(state)
            state = whole[:, :, n] * state + added[:, :, n]
        out = scores @ vs + (qs * reach) @ torch.stack(before, dim=2)
        out = out.flatten(2, 3)[:, :, :t]
    return out.to(v.dtype), state


def diagonal_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor, bonus: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One token: q, k, g [B, H, K], v [B, H, V], u [H, K]."""
    q, k, v_wide = (x.to(state.dtype) for x in (q, k, v))
    new = k[..., :, None] * v_wide[..., None, :]
    after = g.to(state.dtype).exp()[..., None] * state + new
    read = after if bonus is None else state + bonus.to(state.dtype)[..., None] * new
    return (q[..., None] * read).sum(-2).to(v.dtype), after


def diagonal_flops(length: int, heads: int, key: int, value: int, chunk: int = 16) -> int:
    """The matrix products of `chunked_diagonal` for one sequence."""
    size = min(chunk, length)
    padded = -(-length // size) * size
    return 2 * padded * heads * (size * value + 2 * key * value)


# What an op lists in `uses` for this engine.
DIAGONAL: tuple[Callable[..., Any], ...] = (
    on_triton,
    *DIAGONAL_KERNELS,
    segment_sums,
    split_chunks,
    chunked_diagonal,
    diagonal_step,
)
