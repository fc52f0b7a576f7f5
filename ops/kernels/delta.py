"""The chunked delta rule: a key's old value is replaced, not added to.

    S_t = e^{g_t} (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,   o_t = S_t^T q_t

Inside a chunk of C tokens, L_ij = e^{g_{j+1} + ... + g_i} for i >= j, G_i = g_1 + ... + g_i:

    (I + strictly_lower(diag(b) (K K^T * L))) [U | W] = diag(b) [V | diag(e^G) K]
    V' = U - W S,   O = diag(e^G) Q S + ((Q K^T) * L) V',   S <- e^{G_C} S + (diag(L_C) K)^T V'

The system is unit lower triangular and solved by substitution in fp32 (float64 for float64); its
inverse is never formed as a power series, whose terms are huge for keys that are alike.
Shapes: q, k [B, H, T, K], v [B, H, T, V], b and g broadcastable to [B, H, T], S [B, H, K, V];
g <= 0. The rule is stable for b |k|^2 < 2: callers normalise k.
On a GPU this reference serves too: the Triton engine beside it (`delta_kernel.py`) agrees under the
interpreter, but not yet on an H200 with Triton 3.6, where some shapes read out of bounds or are
wrong (`docs/results/kernels.md`); it is not called until its tests pass there.
Papers: Yang et al. 2024, arXiv:2406.06484, eq. 8-11 (g = 0); Yang et al. 2024, arXiv:2412.06464,
section 3.3.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ops.kernels.chunked import segment_sums, split_chunks


def chunked_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor,
    state: Tensor | None = None,
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """All outputs [B, H, T, V] in the dtype of `v`, and the last state in fp32."""
    b, h, t, value = v.shape
    wide = torch.promote_types(v.dtype, torch.float32)
    size = min(chunk, t)
    with torch.autocast(v.device.type, enabled=False):
        beta, g = (x.expand(b, h, t)[..., None] for x in (beta, g))
        qs, ks, vs, bs, gs = (split_chunks(x, size, wide) for x in (q, k, v, beta, g))
        sums, reach = segment_sums(gs), gs.cumsum(-2).exp()
        decay, rest = sums[..., 0].exp(), sums[..., -1, :, :].exp()
        system = ((ks @ ks.mT) * decay * bs).tril(-1)
        right = torch.cat([vs, ks * reach], dim=-1) * bs
        solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
        fresh, known = solved.split([value, k.shape[-1]], dim=-1)
        keys, whole = (ks * rest).mT, reach[..., -1:, :]
        if state is None:
            state = vs.new_zeros(b, h, k.shape[-1], value)
        before, values = [], []
        for n in range(vs.shape[2]):
            before.append(state)
            values.append(fresh[:, :, n] - known[:, :, n] @ state)
            state = whole[:, :, n] * state + keys[:, :, n] @ values[-1]
        carried = (qs * reach) @ torch.stack(before, dim=2)
        out = carried + ((qs @ ks.mT) * decay) @ torch.stack(values, dim=2)
        out = out.flatten(2, 3)[:, :, :t]
    return out.to(v.dtype), state


def delta_step(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: q, k [B, H, K], v [B, H, V], b and g broadcastable to [B, H]."""
    q, k, v_wide = (x.to(state.dtype) for x in (q, k, v))
    state = g.to(state.dtype).exp()[..., None, None] * state
    known = (k[..., None] * state).sum(-2)
    wrong = beta.to(state.dtype)[..., None] * (v_wide - known)
    state = state + k[..., :, None] * wrong[..., None, :]
    return (q[..., None] * state).sum(-2).to(v.dtype), state


def delta_flops(length: int, heads: int, key: int, value: int, chunk: int = 64) -> int:
    """The matrix products of `chunked_delta` for one sequence (the substitution left out)."""
    size = min(chunk, length)
    padded = -(-length // size) * size
    return 2 * padded * heads * (size * (2 * key + value) + 3 * key * value)


# What an op lists in `uses` for this engine.
DELTA: tuple[Callable[..., Any], ...] = (
    segment_sums,
    split_chunks,
    chunked_delta,
    delta_step,
)
