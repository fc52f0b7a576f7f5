"""Scans: linear and relu recurrences, prefix softmax.

The functions here are the specification, in log2(T) steps (Hillis-Steele); on a GPU the linear
recurrence is one kernel (`scan_kernel.py`), and so is that of gates, which are never written out.

    linear:  h_t = a_t h_{t-1} + b_t,    (a, b) then (a', b') = (a a', a' b + b')
    gates:   the linear one; minGRU a = sig(-z), b = sig(z) g(c); minLSTM a = sig(-d),
             b = sig(d) g(c), d = softplus(-f) - softplus(-i); g(u) = u + 1/2 if u >= 0 else sig(u)
    relu:    h_t = max(0, u h_{t-1} + w_t): maps h -> clamp(a h + b, lo, hi) are closed under
             composition, for any sign of a
    softmax: the triple of a set A of tokens is (m, u, w) = (max s, sum e^{s-m}, sum e^{s-m} v);
             softmax_union joins two sets; the output of a set is w / u.

The identity of the union has m at the lowest finite number instead of -inf: the difference of two
such maxima is 0, not NaN. A running maximum is a constant for the gradient: w / u does not depend
on it. fp32 inside (float64 for float64).
Papers: Feng et al. 2024, arXiv:2405.13956 (the union); Martin & Cundy 2018, arXiv:1709.04057.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.kernels.dispatch import on_triton
from ops.kernels.scan_kernel import SCAN_KERNELS, GatedScan, LinearScan
from ops.kernels.scan_pool_kernel import POOL_KERNELS, PoolScan
from ops.kernels.scan_relu_kernel import RELU_KERNELS, ReluScan


def linear_scan(a: Tensor, b: Tensor) -> Tensor:
    """h [B, T, D] with h_0 = 0; a and b are [B, T, D]."""
    if on_triton(a, b) and a.shape == b.shape and b.numel():
        h: Tensor = LinearScan.apply(a, b)  # type: ignore[no-untyped-call]  # torch gives no type
        return h
    shift = 1
    while shift < b.shape[1]:
        now, past = a[:, shift:], slice(None, -shift)
        b = torch.cat([b[:, :shift], now * b[:, past] + b[:, shift:]], dim=1)
        a = torch.cat([a[:, :shift], now * a[:, past]], dim=1)
        shift *= 2
    return b


def gate_terms(gates: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """a and b in fp32 of gates side by side: (z | c) of "gru", (f | i | c) of "lstm"."""
    gates = gates.to(torch.promote_types(gates.dtype, torch.float32))
    *shares, c = gates.chunk(2 if kind == "gru" else 3, dim=-1)
    c = torch.where(c >= 0, F.relu(c) + 0.5, c.sigmoid())
    d = shares[0] if kind == "gru" else F.softplus(-shares[0]) - F.softplus(-shares[1])
    return (-d).sigmoid(), d.sigmoid() * c


def gated_scan(gates: Tensor, kind: str) -> Tensor:
    """h [B, T, E] of the gates [B, T, 2 E] or [B, T, 3 E], in their type."""
    if on_triton(gates) and gates.numel():
        h: Tensor = GatedScan.apply(gates, kind, gates.dtype)  # type: ignore[no-untyped-call]  # torch gives no type
        return h
    return linear_scan(*gate_terms(gates, kind)).to(gates.dtype)


def relu_scan(u: Tensor, w: Tensor) -> Tensor:
    """h [B, T, D] of h_t = relu(w_t + u h_{t-1}), h_0 = 0; u [D], w [B, T, D], h in w's type.

    Composed maps are scanned without a gradient and tell which units are on; with that pattern the
    recurrence is linear, and its scan has the exact value and the exact gradient.
    """
    if on_triton(u, w) and w.numel():
        h: Tensor = ReluScan.apply(u, w)  # type: ignore[no-untyped-call]  # torch gives no type
        return h
    dtype, wide = w.dtype, torch.promote_types(w.dtype, torch.float32)
    u, w = u.to(wide), w.to(wide)
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
    return linear_scan(u * on, w * on).to(dtype)


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
    if on_triton(s, v) and v.shape[-1] <= 256 and v.numel():
        o: Tensor = PoolScan.apply(s, v)  # type: ignore[no-untyped-call]  # torch gives no type
        return o
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


LINEAR_SCAN: tuple[Callable[..., Any], ...] = (on_triton, *SCAN_KERNELS, linear_scan)
RELU_SCAN: tuple[Callable[..., Any], ...] = (*LINEAR_SCAN, *RELU_KERNELS, relu_scan)
PREFIX_SOFTMAX: tuple[Callable[..., Any], ...] = (
    on_triton,
    *POOL_KERNELS,
    softmax_union,
    prefix_softmax,
)
GATED_SCAN: tuple[Callable[..., Any], ...] = (*LINEAR_SCAN, gate_terms, gated_scan)
