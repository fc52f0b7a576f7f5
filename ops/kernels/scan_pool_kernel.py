"""Softmax over every prefix on a GPU, one pass over memory forward and one backward.

    o_t = sum_{i<=t} e^{s_i - L_t} v_i,   L_t = log sum_{i<=t} e^{s_i}

A set of tokens is (m, u, w) as in `ops.kernels.scan`; inside a tile an associative scan of these,
between tiles the last row. Backward runs against time, with e_t the gradient of o_t:
    Q_t = e_t + e^{L_t - L_{t+1}} Q_{t+1},     q_t = e_t o_t + e^{L_t - L_{t+1}} q_{t+1}
    dv_t = e^{s_t - L_t} Q_t,                  ds_t = sum_c e^{s_t - L_t} (Q_t v_t - q_t)
No exponent is positive, as L does not fall. Tokens with s = -inf take no part, and a row without
tokens gives 0, as in the reference.

Shapes: s [B, H, T], v [B, H, T, V] with any strides -> o [B, H, T, V], which lies in memory as
[B, T, H, V]. V > 1: a program is one head; V = 1: a strip of heads. Kept: s, v, o and L; fp32
inside.
Floor in bytes an element of v, bf16: forward 2 + 2, backward 6 + 2 (and s, L for each head).
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"
# (what a kernel takes are pointers and numbers of the device: Python has no types for them)

from collections.abc import Callable
from typing import Any

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # the PyTorch reference serves
    triton = None

if triton is not None:

    @triton.jit
    def pool_union(m, u, w, m2, u2, w2):
        """The set of two sets of tokens."""
        top = tl.maximum(m, m2)
        left, right = tl.exp(m - top), tl.exp(m2 - top)
        return top, u * left + u2 * right, w * left + w2 * right

    @triton.jit
    def pool_join(a, x, y, b, x2, y2):
        """Two steps against time of Q and q, which fade alike."""
        return a * b, b * x + x2, b * y + y2

    @triton.jit(do_not_specialize=["length"])
    def pool_forward_kernel(
        s,
        v,
        out,
        lse,
        length,
        channels,
        heads,
        s_b,
        s_g,
        s_t,
        s_c,
        v_b,
        v_g,
        v_t,
        v_c,
        SHARED: tl.constexpr,
        TALL: tl.constexpr,
        WIDE: tl.constexpr,
    ):
        col = tl.program_id(0) * WIDE + tl.arange(0, WIDE)
        batch, group = tl.program_id(2).to(tl.int64), tl.program_id(1)
        inner = tl.arange(0, TALL)
        low = -3.0e38
        top = tl.full([WIDE], low, tl.float32)
        total = tl.zeros([WIDE], tl.float32)
        mixed = tl.zeros([WIDE], tl.float32)
        inside = (col < channels)[None, :]
        for start in range(0, length, TALL):
            time = (start + inner)[:, None].to(tl.int64)
            keep = (time < length) & inside
            at = batch * s_b + group * s_g + time * s_t + col[None, :] * s_c
            score = tl.load(s + at, mask=keep, other=float("-inf")).to(tl.float32)
            at = batch * v_b + group * v_g + time * v_t + col[None, :] * v_c
            value = tl.load(v + at, mask=keep, other=0.0).to(tl.float32)
            u = tl.where(score == float("-inf"), 0.0, 1.0)
            m, u, w = tl.associative_scan((tl.maximum(score, low), u, value * u), 0, pool_union)
            m, u, w = pool_union(top[None, :], total[None, :], mixed[None, :], m, u, w)
            last = (inner == TALL - 1)[:, None]
            top = tl.sum(tl.where(last, m, 0.0), 0)
            total = tl.sum(tl.where(last, u, 0.0), 0)
            mixed = tl.sum(tl.where(last, w, 0.0), 0)
            size = tl.maximum(u, 1.0)
            row = batch * length + time
            line = row * heads + (col[None, :] * 0 + group if SHARED else col[None, :])
            first = keep & (col == 0)[None, :] if SHARED else keep
            tl.store(lse + line, tl.where(u > 0.0, m + tl.log(size), low), mask=first)
            to = row * heads * (channels if SHARED else 1) + group * channels + col[None, :]
            tl.store(out + to, (w / size).to(out.dtype.element_ty), mask=keep)

    @triton.jit(do_not_specialize=["length"])
    def pool_backward_kernel(
        s,
        v,
        out,
        lse,
        grad,
        ds,
        dv,
        length,
        channels,
        heads,
        s_b,
        s_g,
        s_t,
        s_c,
        v_b,
        v_g,
        v_t,
        v_c,
        SHARED: tl.constexpr,
        TALL: tl.constexpr,
        WIDE: tl.constexpr,
    ):
        col = tl.program_id(0) * WIDE + tl.arange(0, WIDE)
        batch, group = tl.program_id(2).to(tl.int64), tl.program_id(1)
        inner = tl.arange(0, TALL)
        state = tl.zeros([WIDE], tl.float32)
        mean = tl.zeros([WIDE], tl.float32)
        inside = (col < channels)[None, :]
        tiles = tl.cdiv(length, TALL)
        for i in range(0, tiles):
            when = (tiles - i) * TALL - 1 - inner  # latest first
            time = when[:, None].to(tl.int64)
            keep = (time < length) & inside
            at = batch * s_b + group * s_g + time * s_t + col[None, :] * s_c
            score = tl.load(s + at, mask=keep, other=float("-inf")).to(tl.float32)
            at = batch * v_b + group * v_g + time * v_t + col[None, :] * v_c
            value = tl.load(v + at, mask=keep, other=0.0).to(tl.float32)
            row = batch * length + time
            line = row * heads + (col[None, :] * 0 + group if SHARED else col[None, :])
            now = tl.load(lse + line, mask=keep, other=0.0)
            after = keep & (time + 1 < length)
            later = tl.load(lse + line + heads, mask=after, other=0.0)
            fade = tl.where(after, tl.exp(tl.where(after, now - later, 0.0)), 0.0)
            to = row * heads * (channels if SHARED else 1) + group * channels + col[None, :]
            e = tl.load(grad + to, mask=keep, other=0.0).to(tl.float32)
            mix = tl.load(out + to, mask=keep, other=0.0).to(tl.float32)
            a, x, y = tl.associative_scan((fade, e, e * mix), 0, pool_join)
            x, y = x + a * state[None, :], y + a * mean[None, :]
            last = (inner == TALL - 1)[:, None]
            state = tl.sum(tl.where(last, x, 0.0), 0)
            mean = tl.sum(tl.where(last, y, 0.0), 0)
            share = tl.exp(score - now)
            tl.store(dv + to, (share * x).to(dv.dtype.element_ty), mask=keep)
            part = share * (x * value - y)
            if SHARED:
                at = (batch * length + when) * heads + group
                whole = tl.sum(tl.where(inside, part, 0.0), 1)
                tl.store(ds + at, whole.to(ds.dtype.element_ty), mask=when < length)
            else:
                tl.store(ds + line, part.to(ds.dtype.element_ty), mask=keep)


def pool_config(length: int, channels: int, shared: bool) -> tuple[int, int, int]:
    """(rows and columns of a tile, warps): a head's whole width, or 32 heads."""
    wide = max(16, triton.next_power_of_2(channels)) if shared else 32
    tall = max(16, min(2048 // wide, 64, triton.next_power_of_2(length)))
    return tall, wide, 4


class PoolScan(torch.autograd.Function):
    """o [B, H, T, V] of s [B, H, T] and v [B, H, T, V]."""

    @staticmethod
    def forward(ctx, s, v):
        b, h, t, width = v.shape
        shared = width > 1
        channels, groups = (width, h) if shared else (h, 1)
        tall, wide, warps = pool_config(t, channels, shared)
        (s_b, s_h, s_t), (v_b, v_h, v_t, v_c) = s.stride(), v.stride()
        steps = (s_b, s_h, s_t, 0, v_b, v_h, v_t, v_c)
        if not shared:
            steps = (s_b, 0, s_t, s_h, v_b, 0, v_t, v_h)
        out = v.new_empty(b, t, h, width)
        lse = v.new_empty(b, t, h, dtype=torch.float32)
        grid = triton.cdiv(channels, wide), groups, b
        pool_forward_kernel[grid](
            s,
            v,
            out,
            lse,
            t,
            channels,
            h,
            *steps,
            shared,
            tall,
            wide,
            num_warps=warps,
        )
        ctx.save_for_backward(s, v, out, lse)
        ctx.kind = steps, shared, channels, grid, tall, wide, warps
        return out.transpose(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        s, v, out, lse = ctx.saved_tensors
        steps, shared, channels, grid, tall, wide, warps = ctx.kind
        b, t, h, _ = out.shape
        grad = grad.transpose(1, 2).contiguous()
        dv = torch.empty_like(out)
        ds = s.new_empty(b, t, h)
        pool_backward_kernel[grid](
            s,
            v,
            out,
            lse,
            grad,
            ds,
            dv,
            t,
            channels,
            h,
            *steps,
            shared,
            tall,
            wide,
            num_warps=warps,
        )
        return ds.transpose(1, 2), dv.transpose(1, 2)


POOL_KERNELS: tuple[Callable[..., Any], ...] = (
    *(
        (pool_union, pool_join, pool_forward_kernel, pool_backward_kernel)
        if triton is not None
        else ()
    ),
    pool_config,
    PoolScan,
)
