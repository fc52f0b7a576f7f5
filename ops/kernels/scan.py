"""Associative scans in log2(T) steps (Hillis-Steele): linear and relu recurrences, prefix softmax.

    linear:  h_t = a_t h_{t-1} + b_t,    (a, b) then (a', b') = (a a', a' b + b')
    relu:    h_t = max(0, u h_{t-1} + w_t): maps h -> clamp(a h + b, lo, hi) are closed under
             composition, for any sign of a
    softmax: the triple of a set A of tokens is (m, u, w) = (max s, sum e^{s-m}, sum e^{s-m} v);
             softmax_union joins two sets; the output of a set is w / u.

The identity of the union has m at the lowest finite number instead of -inf: the difference of two
such maxima is 0, not NaN. A running maximum is a constant for the gradient: w / u does not depend
on it. fp32 inside (float64 for float64).
Papers: Feng et al. 2024, arXiv:2405.13956 (the union); Martin & Cundy 2018, arXiv:1709.04057.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def linear_scan(a: Tensor, b: Tensor) -> Tensor:
    """h [B, T, D] with h_0 = 0; a and b are [B, T, D]."""
    shift = 1
    while shift < b.shape[1]:
        now, past = a[:, shift:], slice(None, -shift)
        b = torch.cat([b[:, :shift], now * b[:, past] + b[:, shift:]], dim=1)
        a = torch.cat([a[:, :shift], now * a[:, past]], dim=1)
        shift *= 2
    return b


def relu_scan(u: Tensor, w: Tensor) -> Tensor:
    """h [B, T, D] of h_t = relu(w_t + u h_{t-1}), h_0 = 0; u [D], w [B, T, D].

    Composed maps are scanned without a gradient and tell which units are on; with that pattern the
    recurrence is linear, and its scan has the exact value and the exact gradient.
    """
    with torch.no_grad():
        most = 1e100  # beyond fp32, and its square is finite: 0 * most is no NaN
        a, b = u.double().expand_as(w), w.double()
        low, high = torch.zeros_like(b), torch.full_like(b, most)
        shift = 1
        while shift < w.shape[1]:
            now, past = slice(shift, None), slice(None, -shift)
            slope, add, least, top = a[:, now], b[:, now], low[:, now], high[:, now]
            ends = [(slope * end[:, past] + add).clamp(least, top) for end in (low, high)]
            low = torch.cat([low[:, :shift], torch.minimum(*ends)], dim=1)
            high = torch.cat([high[:, :shift], torch.maximum(*ends)], dim=1)
            b = torch.cat([b[:, :shift], slope * b[:, past] + add], dim=1).clamp(-most, most)
            a = torch.cat([a[:, :shift], slope * a[:, past]], dim=1).clamp(-most, most)
            shift *= 2
        before = F.pad(b.clamp(low, high)[:, :-1], (0, 0, 1, 0))
        on = (w + u * before > 0).to(w.dtype)
    return linear_scan(u * on, w * on)


def softmax_union(
    a: tuple[Tensor, Tensor, Tensor], b: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The triple of two disjoint sets: m, u [...], w [..., V]."""
    m = torch.maximum(a[0], b[0])
    left, right = (a[0] - m).exp(), (b[0] - m).exp()
    w = a[2] * left[..., None] + b[2] * right[..., None]
    return m, a[1] * left + b[1] * right, w


def prefix_softmax(s: Tensor, v: Tensor, chunk: int = 64) -> Tensor:
    """o_t = sum_{i<=t} e^{s_i} v_i / sum_{i<=t} e^{s_i}: s [B, H, T], v [B, H, T, V].

    Inside a chunk by a triangular matrix e^{s_j - M_i} with M the running maximum, between chunks
    by the union. A token with s = -inf takes no part; a row without tokens gives 0.
    """
    b, h, t, width = v.shape
    wide = torch.promote_types(v.dtype, torch.float32)
    size = min(chunk, t)
    pad = -t % size
    with torch.autocast(v.device.type, enabled=False):
        vs = F.pad(v.to(wide), (0, 0, 0, pad)).view(b, h, -1, size, width)
        scores = F.pad(s.to(wide), (0, pad), value=float("-inf")).view(b, h, -1, size)
        m = scores.detach().cummax(-1).values.clamp_min(torch.finfo(wide).min)
        later = torch.ones(size, size, dtype=torch.bool, device=v.device).triu(1)
        weights = (scores[..., None, :] - m[..., None]).masked_fill(later, float("-inf")).exp()
        own = (m, weights.sum(-1), weights @ vs)
        past = (torch.full_like(m[:, :, 0, -1], torch.finfo(wide).min), m.new_zeros(b, h))
        prefix = (*past, vs.new_zeros(b, h, width))
        before = []
        for n in range(m.shape[2]):
            before.append(prefix)
            prefix = softmax_union(
                prefix, (m[:, :, n, -1], own[1][:, :, n, -1], own[2][:, :, n, -1])
            )
        start = tuple(
            torch.stack(parts, dim=2)[:, :, :, None] for parts in zip(*before, strict=True)
        )
        _, u, w = softmax_union((start[0], start[1], start[2]), own)
        out = (w / u.clamp_min(1.0)[..., None]).flatten(2, 3)[:, :, :t]
    return out.to(v.dtype)
