"""What follows a linear mixer, on a GPU: the norm of its heads, gains and the output gate.

    u = o / sqrt(mean o^2 + eps)      over each head, or over all heads (WHOLE)
    y = u weight act(gate)            act: silu, or none; weight and gate may be absent

Backward, with a = act(gate) and d = dy a weight, means as above:
    do = (d - u mean(d u)) / sqrt(...),  dgate = dy u weight a',  dweight = sum dy a u

Shapes: o [B, H, T, K] with any strides but K's, gate [B, T, H K] with any strides but the last,
weight [K], or [H K] if WHOLE -> y [B, T, H K]. A program takes all heads of a few tokens, fp32
inside; gains are summed in two stages in a fixed order. Nothing is kept but o and the gate.
Floor in bytes an element, bf16: forward 4 + 2, backward 6 + 4.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"
# (what a kernel takes are pointers and numbers of the device: Python has no types for them)

from collections.abc import Callable
from typing import Any

import torch

from ops.kernels.rows_gate_kernel import GATE_VALUE
from ops.kernels.rows_norm_kernel import SUM_LINES, lines_summed

try:
    import triton
    import triton.language as tl
except ImportError:  # the PyTorch reference serves
    triton = None

if triton is not None:
    from ops.kernels.rows_gate_kernel import gate_value

    @triton.jit
    def heads_mean(x, heads, width, WHOLE: tl.constexpr):
        """Over the width of each head or over all heads, kept as axes of one."""
        total = tl.sum(x, 2)[:, :, None]
        if WHOLE:
            total = tl.sum(total, 1)[:, None, :]
        return total / (heads * width if WHOLE else width)

    @triton.jit
    def heads_places(
        tile,
        count,
        length,
        heads,
        width,
        SPAN: tl.constexpr,
        HEADS: tl.constexpr,
        WIDE: tl.constexpr,
    ):
        """Batch, time, head, channel of a tile [tokens, heads, channels], and which exist."""
        row = tile * SPAN + tl.arange(0, SPAN)[:, None, None]
        head = tl.arange(0, HEADS)[None, :, None]
        col = tl.arange(0, WIDE)[None, None, :]
        keep = (row < count) & (head < heads) & (col < width)
        return (row // length).to(tl.int64), (row % length).to(tl.int64), head, col, keep

    @triton.jit
    def heads_forward_kernel(
        o,
        gate,
        weight,
        out,
        count,
        length,
        heads,
        width,
        o_b,
        o_h,
        o_t,
        g_b,
        g_t,
        eps,
        ACT: tl.constexpr,
        WHOLE: tl.constexpr,
        SPAN: tl.constexpr,
        HEADS: tl.constexpr,
        WIDE: tl.constexpr,
    ):
        b, t, head, col, keep = heads_places(
            tl.program_id(0), count, length, heads, width, SPAN, HEADS, WIDE
        )
        x = tl.load(o + b * o_b + head * o_h + t * o_t + col, mask=keep, other=0.0).to(tl.float32)
        y = x * tl.rsqrt(heads_mean(x * x, heads, width, WHOLE) + eps)
        inner = head * width + col
        if weight is not None:
            at = inner if WHOLE else head * 0 + col
            inside = (head < heads) & (col < width)
            y *= tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
        if gate is not None:
            g = tl.load(gate + b * g_b + t * g_t + inner, mask=keep, other=0.0).to(tl.float32)
            value, _ = gate_value(g, ACT)
            y *= value
        to = (b * length + t) * (heads * width) + inner
        tl.store(out + to, y.to(out.dtype.element_ty), mask=keep)

    @triton.jit
    def heads_backward_kernel(
        o,
        gate,
        weight,
        dy,
        do,
        dgate,
        parts,
        count,
        length,
        heads,
        width,
        o_b,
        o_h,
        o_t,
        g_b,
        g_t,
        d_b,
        d_h,
        d_t,
        eps,
        ACT: tl.constexpr,
        WHOLE: tl.constexpr,
        SPAN: tl.constexpr,
        HEADS: tl.constexpr,
        WIDE: tl.constexpr,
    ):
        gains = tl.zeros([SPAN, HEADS, WIDE], tl.float32)
        for tile in range(tl.program_id(0), tl.cdiv(count, SPAN), tl.num_programs(0)):
            b, t, head, col, keep = heads_places(
                tile, count, length, heads, width, SPAN, HEADS, WIDE
            )
            inner = head * width + col
            to = (b * length + t) * (heads * width) + inner
            x = tl.load(o + b * o_b + head * o_h + t * o_t + col, mask=keep, other=0.0)
            x = x.to(tl.float32)
            d = tl.load(dy + to, mask=keep, other=0.0).to(tl.float32)
            inverse = tl.rsqrt(heads_mean(x * x, heads, width, WHOLE) + eps)
            u = x * inverse
            factor = tl.full([1, 1, 1], 1.0, tl.float32)
            if weight is not None:
                at = inner if WHOLE else head * 0 + col
                inside = (head < heads) & (col < width)
                factor = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
            if gate is not None:
                g = tl.load(gate + b * g_b + t * g_t + inner, mask=keep, other=0.0)
                value, slope = gate_value(g.to(tl.float32), ACT)
                dg = d * u * factor * slope
                tl.store(dgate + to, dg.to(dgate.dtype.element_ty), mask=keep)
                d *= value
            if parts is not None:
                gains += d * u
            d *= factor
            d = (d - u * heads_mean(d * u, heads, width, WHOLE)) * inverse
            back = b * d_b + head * d_h + t * d_t + col
            tl.store(do + back, d.to(do.dtype.element_ty), mask=keep)
        if parts is not None:
            head, col = tl.arange(0, HEADS)[:, None], tl.arange(0, WIDE)
            total = tl.sum(gains, 0)
            if WHOLE:
                line = parts + tl.program_id(0).to(tl.int64) * heads * width
                keep = (head < heads) & (col[None, :] < width)
                tl.store(line + head * width + col[None, :], total, mask=keep)
            else:
                line = parts + tl.program_id(0).to(tl.int64) * width
                tl.store(line + col, tl.sum(total, 0), mask=col < width)


def heads_config(heads: int, width: int) -> tuple[int, int, int]:
    """(tokens of a tile, warps, most programs backward)."""
    area = triton.next_power_of_2(heads) * triton.next_power_of_2(width)
    return max(1, 2048 // area), 4 if area <= 2048 else 8, 528


class HeadRows(torch.autograd.Function):
    """y [B, T, H K] of o [B, H, T, K]."""

    @staticmethod
    def forward(ctx, o, gate, weight, eps, act, whole, dtype):
        o = o if o.stride(-1) == 1 else o.contiguous()
        gate = gate if gate is None or gate.stride(-1) == 1 else gate.contiguous()
        b, heads, t, width = o.shape
        span, warps, most = heads_config(heads, width)
        out = o.new_empty(b, t, heads * width, dtype=dtype)
        blocks = span, triton.next_power_of_2(heads), triton.next_power_of_2(width)
        heads_forward_kernel[(triton.cdiv(b * t, span),)](
            o,
            gate,
            weight,
            out,
            b * t,
            t,
            heads,
            width,
            *o.stride()[:3],
            *((0, 0) if gate is None else gate.stride()[:2]),
            eps,
            act,
            whole,
            *blocks,
            num_warps=warps,
        )
        ctx.save_for_backward(o, gate, weight)
        ctx.kind = eps, act, whole, blocks, warps, most
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        o, gate, weight = ctx.saved_tensors
        eps, act, whole, blocks, warps, most = ctx.kind
        b, heads, t, width = o.shape
        do = torch.empty_like(o)
        dgate = None if gate is None else gate.new_empty(b, t, heads * width)
        programs = min(most, triton.cdiv(b * t, blocks[0]))
        parts = None
        if weight is not None:
            parts = o.new_empty(programs, weight.numel(), dtype=torch.float32)
        heads_backward_kernel[(programs,)](
            o,
            gate,
            weight,
            dy.contiguous(),
            do,
            dgate,
            parts,
            b * t,
            t,
            heads,
            width,
            *o.stride()[:3],
            *((0, 0) if gate is None else gate.stride()[:2]),
            *do.stride()[:3],
            eps,
            act,
            whole,
            *blocks,
            num_warps=warps,
        )
        dweight = None
        if parts is not None:
            dweight = lines_summed(parts).view_as(weight).to(weight.dtype)
        return do, dgate, dweight, None, None, None, None


HEAD_KERNELS: tuple[Callable[..., Any], ...] = (
    *GATE_VALUE,
    *(
        (heads_mean, heads_places, heads_forward_kernel, heads_backward_kernel)
        if triton is not None
        else ()
    ),
    *SUM_LINES,
    heads_config,
    HeadRows,
)
