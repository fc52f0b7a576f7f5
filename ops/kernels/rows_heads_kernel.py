"""What follows a linear mixer, on a GPU: the norm of its heads, gains and the output gate.

    p = o + skip x                    where there is a skip, one number a head; else p = o
    u = p / sqrt(mean p^2 + eps)      over each head, or over all heads (WHOLE)
    y = scale u weight act(gate)      act: silu, or none; weight and gate may be absent
    EARLY: p act(gate) stands for p, and y = scale u weight

Backward, with a = act(gate) and d = scale dy a weight, means as above:
    dp = (d - u mean(d u)) / sqrt(...),  dgate = scale dy u weight a',  dweight = sum scale dy a u
    dx = skip dp,  dskip = sum dp x;     EARLY: a and a' meet dp instead

Shapes: o and x [B, H, T, K] with any strides but K's, gate [B, T, H K] with any strides but the
last, weight [K], or [H K] if WHOLE -> y [B, T, H K]. A program takes all heads of a few tokens,
fp32 inside; gains are summed in two stages in a fixed order. Nothing is kept but o and the gate.
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
        extra,
        skip,
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
        x_b,
        x_h,
        x_t,
        eps,
        scale,
        ACT: tl.constexpr,
        EARLY: tl.constexpr,
        WHOLE: tl.constexpr,
        SPAN: tl.constexpr,
        HEADS: tl.constexpr,
        WIDE: tl.constexpr,
    ):
        b, t, head, col, keep = heads_places(
            tl.program_id(0), count, length, heads, width, SPAN, HEADS, WIDE
        )
        x = tl.load(o + b * o_b + head * o_h + t * o_t + col, mask=keep, other=0.0).to(tl.float32)
        if extra is not None:
            more = tl.load(extra + b * x_b + head * x_h + t * x_t + col, mask=keep, other=0.0)
            part = tl.load(skip + head, mask=head < heads, other=0.0).to(tl.float32)
            x += part * more.to(tl.float32)
        inner = head * width + col
        if gate is not None:
            g = tl.load(gate + b * g_b + t * g_t + inner, mask=keep, other=0.0).to(tl.float32)
            value, _ = gate_value(g, ACT)
            if EARLY:
                x *= value
        y = x * (tl.rsqrt(heads_mean(x * x, heads, width, WHOLE) + eps) * scale)
        if weight is not None:
            at = inner if WHOLE else head * 0 + col
            inside = (head < heads) & (col < width)
            y *= tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
        if gate is not None and not EARLY:
            y *= value
        to = (b * length + t) * (heads * width) + inner
        tl.store(out + to, y.to(out.dtype.element_ty), mask=keep)

    @triton.jit
    def heads_backward_kernel(
        o,
        gate,
        weight,
        extra,
        skip,
        dy,
        do,
        dgate,
        dextra,
        parts,
        skips,
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
        x_b,
        x_h,
        x_t,
        e_b,
        e_h,
        e_t,
        eps,
        scale,
        ACT: tl.constexpr,
        EARLY: tl.constexpr,
        WHOLE: tl.constexpr,
        SPAN: tl.constexpr,
        HEADS: tl.constexpr,
        WIDE: tl.constexpr,
    ):
        gains = tl.zeros([SPAN, HEADS, WIDE], tl.float32)
        drops = tl.zeros([SPAN, HEADS], tl.float32)
        for tile in range(tl.program_id(0), tl.cdiv(count, SPAN), tl.num_programs(0)):
            b, t, head, col, keep = heads_places(
                tile, count, length, heads, width, SPAN, HEADS, WIDE
            )
            inner = head * width + col
            to = (b * length + t) * (heads * width) + inner
            x = tl.load(o + b * o_b + head * o_h + t * o_t + col, mask=keep, other=0.0)
            p = x.to(tl.float32)
            if extra is not None:
                more = tl.load(extra + b * x_b + head * x_h + t * x_t + col, mask=keep, other=0.0)
                more = more.to(tl.float32)
                part = tl.load(skip + head, mask=head < heads, other=0.0).to(tl.float32)
                p += part * more
            x = p
            if gate is not None:
                g = tl.load(gate + b * g_b + t * g_t + inner, mask=keep, other=0.0)
                value, slope = gate_value(g.to(tl.float32), ACT)
                if EARLY:
                    x = p * value
            d = tl.load(dy + to, mask=keep, other=0.0).to(tl.float32) * scale
            inverse = tl.rsqrt(heads_mean(x * x, heads, width, WHOLE) + eps)
            u = x * inverse
            factor = tl.full([1, 1, 1], 1.0, tl.float32)
            if weight is not None:
                at = inner if WHOLE else head * 0 + col
                inside = (head < heads) & (col < width)
                factor = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
            if gate is not None and not EARLY:
                dg = d * u * factor * slope
                tl.store(dgate + to, dg.to(dgate.dtype.element_ty), mask=keep)
                d *= value
            if parts is not None:
                gains += d * u
            d *= factor
            d = (d - u * heads_mean(d * u, heads, width, WHOLE)) * inverse
            if gate is not None and EARLY:
                tl.store(dgate + to, (d * p * slope).to(dgate.dtype.element_ty), mask=keep)
                d *= value
            back = b * d_b + head * d_h + t * d_t + col
            tl.store(do + back, d.to(do.dtype.element_ty), mask=keep)
            if extra is not None:
                back = b * e_b + head * e_h + t * e_t + col
                tl.store(dextra + back, (d * part).to(dextra.dtype.element_ty), mask=keep)
                drops += tl.sum(d * more, 2)
        if extra is not None:
            h = tl.arange(0, HEADS)
            line = skips + tl.program_id(0).to(tl.int64) * heads
            tl.store(line + h, tl.sum(drops, 0), mask=h < heads)
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


def heads_config(heads: int, width: int) -> tuple[int, int, int, int]:
    """Tokens of a tile forward and backward, warps, most programs backward."""
    area = triton.next_power_of_2(heads) * triton.next_power_of_2(width)
    return max(1, 2048 // area), max(1, 1024 // area), 4 if area <= 1024 else 8, 1056


class HeadRows(torch.autograd.Function):
    """y [B, T, H K] of o [B, H, T, K]; `kind`: eps, scale, act, early, whole, type of y."""

    @staticmethod
    def forward(ctx, o, gate, weight, extra, skip, kind):
        o, gate, extra = (
            z if z is None or z.stride(-1) == 1 else z.contiguous() for z in (o, gate, extra)
        )
        eps, scale, act, early, whole, dtype = kind
        b, heads, t, width = o.shape
        span, _, warps, _ = heads_config(heads, width)
        out = o.new_empty(b, t, heads * width, dtype=dtype)
        blocks = span, triton.next_power_of_2(heads), triton.next_power_of_2(width)
        steps = *o.stride()[:3], *((0, 0) if gate is None else gate.stride()[:2])
        mine = (0, 0, 0) if extra is None else extra.stride()[:3]
        heads_forward_kernel[(triton.cdiv(b * t, span),)](
            *(o, gate, weight, extra, skip, out),
            *(b * t, t, heads, width, *steps, *mine, eps, scale),
            *(act, early, whole, *blocks),
            num_warps=warps,
        )
        ctx.save_for_backward(o, gate, weight, extra, skip)
        ctx.kind = kind, blocks[1:], steps, mine
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        o, gate, weight, extra, skip = ctx.saved_tensors
        (eps, scale, act, early, whole, _), blocks, steps, mine = ctx.kind
        b, heads, t, width = o.shape
        _, span, warps, most = heads_config(heads, width)
        programs = min(most, triton.cdiv(b * t, span))
        do = torch.empty_like(o)
        dgate = None if gate is None else gate.new_empty(b, t, heads * width)
        dextra = None if extra is None else torch.empty_like(extra)
        parts, skips = (
            None if z is None else z.new_empty(programs, z.numel(), dtype=torch.float32)
            for z in (weight, skip)
        )
        heads_backward_kernel[(programs,)](
            *(o, gate, weight, extra, skip, dy.contiguous(), do, dgate, dextra, parts, skips),
            *(b * t, t, heads, width, *steps, *do.stride()[:3], *mine),
            *((0, 0, 0) if dextra is None else dextra.stride()[:3]),
            *(eps, scale, act, early, whole, span, *blocks),
            num_warps=warps,
        )
        dweight, dskip = (
            None if z is None or lines is None else lines_summed(lines).view_as(z).to(z.dtype)
            for z, lines in ((weight, parts), (skip, skips))
        )
        return do, dgate, dweight, dextra, dskip, None


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
