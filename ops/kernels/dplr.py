"""The chunked recurrence with a diagonal and a rank-one part, as in RWKV-7.

    S_t = diag(e^{g_t}) S_{t-1} + b_t (a_t^T S_{t-1}) + k_t v_t^T,   o_t = S_t^T q_t

Inside a chunk of C tokens, with u_i = S_{i-1}^T a_i, G_ij = g_{j+1} + ... + g_i,
G_i = g_1 + ... + g_i (vectors over K), and for any x, y the scores

    <x, y>_ij = sum_c x_ic y_jc e^{G_ijc}, j <= i
    [x, y]_ij = sum_c x_ic y_jc e^{G_{i-1,j,c}}, j < i

    (I - [a, b]) U = (e^{G_{i-1}} * a_i) S + [a, k] V
    O = (e^{G_i} * q_i) S + <q, k> V + <q, b> U
    S <- diag(e^{G_C}) S + sum_j e^{G_Cj} * (k_j v_j^T + b_j u_j^T)

[x, y] uses <., .>'s decays one row up. As in `diagonal.py`, no exponent is positive; the unit
lower triangular system is solved by substitution. RWKV-7 has a = -kappa, b = kappa * icl.
Shapes: q, k, a, b, g [B, H, T, K], v [B, H, T, V], S [B, H, K, V]; g <= 0. fp32 inside (float64
for float64).
Paper: Peng et al. 2025, "RWKV-7 Goose", arXiv:2503.14456, eq. 17 and appendix on the chunked form.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.kernels.chunked import segment_sums, split_chunks


def decayed_scores(x: Tensor, y: Tensor, decay: Tensor) -> Tensor:
    """sum_c x_ic y_jc decay_ijc: x, y [..., C, K], decay [..., C, C, K] -> [..., C, C]."""
    return (decay * y[..., None, :, :] * x[..., :, None, :]).sum(-1)


def chunked_dplr(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    g: Tensor,
    state: Tensor | None = None,
    chunk: int = 16,
) -> tuple[Tensor, Tensor]:
    """All outputs [B, H, T, V] in the dtype of `v`, and the last state in fp32."""
    batch, heads, t, value = v.shape
    wide = torch.promote_types(v.dtype, torch.float32)
    size = min(chunk, t)
    with torch.autocast(v.device.type, enabled=False):
        qs, ks, vs, xs, bs, gs = (split_chunks(x, size, wide) for x in (q, k, v, a, b, g))
        decay, reach = segment_sums(gs).exp(), gs.cumsum(-2).exp()
        earlier = F.pad(decay[..., :-1, :, :], (0, 0, 0, 0, 1, 0))
        start = F.pad(reach[..., :-1, :], (0, 0, 1, 0), value=1.0)
        system = -decayed_scores(xs, bs, earlier)
        right = torch.cat([decayed_scores(xs, ks, earlier) @ vs, xs * start], dim=-1)
        solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
        fresh, known = solved.split([value, k.shape[-1]], dim=-1)
        rest, whole = decay[..., -1, :, :], reach[..., -1, :, None]
        added, extra = (ks * rest).mT @ vs, (bs * rest).mT
        if state is None:
            state = vs.new_zeros(batch, heads, k.shape[-1], value)
        before, reads = [], []
        for n in range(vs.shape[2]):
            before.append(state)
            reads.append(fresh[:, :, n] + known[:, :, n] @ state)
            state = whole[:, :, n] * state + added[:, :, n] + extra[:, :, n] @ reads[-1]
        out = (qs * reach) @ torch.stack(before, dim=2)
        out = out + decayed_scores(qs, ks, decay) @ vs
        out = out + decayed_scores(qs, bs, decay) @ torch.stack(reads, dim=2)
        out = out.flatten(2, 3)[:, :, :t]
    return out.to(v.dtype), state


def dplr_step(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, g: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: q, k, a, b, g [B, H, K], v [B, H, V]."""
    wide = state.dtype
    read = (a.to(wide)[..., None] * state).sum(-2)
    new = (
        k.to(wide)[..., None] * v.to(wide)[..., None, :]
        + b.to(wide)[..., None] * read[..., None, :]
    )
    state = g.to(wide).exp()[..., None] * state + new
    return (q.to(wide)[..., None] * state).sum(-2).to(v.dtype), state


def dplr_flops(length: int, heads: int, key: int, value: int, chunk: int = 16) -> int:
    """The matrix products of `chunked_dplr` for one sequence (the substitution left out)."""
    size = min(chunk, length)
    padded = -(-length // size) * size
    return 2 * padded * heads * (3 * size * value + 4 * key * value)


# What an op lists in `uses` for this engine.
DPLR = (segment_sums, split_chunks, decayed_scores, chunked_dplr, dplr_step)
