"""Norms of rows on a GPU: RMS or layer norm, with a residual sum in front and gains behind.

    s = x + r                     (with r; else s = x)
    z = s - mean_d s              (CENTER; else z = s)
    y = z / sqrt(mean_d z_d^2 + eps) * weight + bias

Backward, with u = z / sqrt(...) and g = dy * weight, means over the row (mean g: CENTER only):
    ds = (g - mean g - u mean(g u)) / sqrt(...) + the gradient that s itself receives
    dweight = sum_rows dy u,   dbias = sum_rows dy

Shapes: x, r, s, y [..., D] with D <= 16384, weight and bias [D]. A program holds whole rows in fp32
registers. Nothing is kept but s: the statistics are found again in the backward pass, which reads
the row anyway. Gains: every program sums its rows into a line of `parts`, a second kernel sums the
lines; both in a fixed order. y comes in a dtype of the caller's choice, so that a cast to the dtype
of a following matmul costs no pass.
Floor in bytes an element, fp32 stream and bf16 branches: forward 4 + 2 (+ 6 for the sum), backward
4 + 2 + 4 (+ 4 + 2).
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"
# (what a kernel takes are pointers and numbers of the device: Python has no types for them)

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # the PyTorch reference serves
    triton = None

if triton is not None:

    @triton.jit
    def norm_rows_forward(
        x,
        r,
        weight,
        bias,
        total,
        out,
        count,
        units,
        eps,
        CENTER: tl.constexpr,
        UNIT: tl.constexpr,
        ROWS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        width = units * UNIT
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        col = tl.arange(0, BLOCK)
        keep = (row < count)[:, None] & (col < width)[None, :]
        at = row.to(tl.int64)[:, None] * width + col[None, :]
        z = tl.load(x + at, mask=keep, other=0.0).to(tl.float32)
        if r is not None:
            z += tl.load(r + at, mask=keep, other=0.0).to(tl.float32)
            rounded = z.to(total.dtype.element_ty)
            tl.store(total + at, rounded, mask=keep)
            z = rounded.to(tl.float32)
        if CENTER:
            z = tl.where(keep, z - (tl.sum(z, 1) / width)[:, None], 0.0)
        y = z * tl.rsqrt(tl.sum(z * z, 1) / width + eps)[:, None]
        if weight is not None:
            y *= tl.load(weight + col, mask=col < width, other=0.0).to(tl.float32)[None, :]
        if bias is not None:
            y += tl.load(bias + col, mask=col < width, other=0.0).to(tl.float32)[None, :]
        tl.store(out + at, y.to(out.dtype.element_ty), mask=keep)

    @triton.jit
    def norm_rows_backward(
        s,
        weight,
        dy,
        more,
        dx,
        dr,
        parts,
        count,
        units,
        eps,
        CENTER: tl.constexpr,
        SHIFT: tl.constexpr,
        UNIT: tl.constexpr,
        ROWS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        width = units * UNIT
        col = tl.arange(0, BLOCK)
        gain = tl.zeros([ROWS, BLOCK], tl.float32)
        shift = tl.zeros([ROWS, BLOCK], tl.float32)
        scale = tl.zeros([BLOCK], tl.float32) + 1.0
        if weight is not None:
            scale = tl.load(weight + col, mask=col < width, other=0.0).to(tl.float32)
        for tile in range(tl.program_id(0), tl.cdiv(count, ROWS), tl.num_programs(0)):
            row = tile * ROWS + tl.arange(0, ROWS)
            keep = (row < count)[:, None] & (col < width)[None, :]
            at = row.to(tl.int64)[:, None] * width + col[None, :]
            z = tl.load(s + at, mask=keep, other=0.0).to(tl.float32)
            g = tl.load(dy + at, mask=keep, other=0.0).to(tl.float32)
            if CENTER:
                z = tl.where(keep, z - (tl.sum(z, 1) / width)[:, None], 0.0)
            inverse = tl.rsqrt(tl.sum(z * z, 1) / width + eps)[:, None]
            u = z * inverse
            if parts is not None:
                gain += g * u
                if SHIFT:
                    shift += g
            g *= scale[None, :]
            d = g - u * (tl.sum(g * u, 1) / width)[:, None]
            if CENTER:
                d -= (tl.sum(g, 1) / width)[:, None]
            d *= inverse
            if more is not None:
                d += tl.load(more + at, mask=keep, other=0.0).to(tl.float32)
            tl.store(dx + at, d.to(dx.dtype.element_ty), mask=keep)
            if dr is not None:
                tl.store(dr + at, d.to(dr.dtype.element_ty), mask=keep)
        if parts is not None:
            line = parts + tl.program_id(0).to(tl.int64) * width * (1 + SHIFT)
            tl.store(line + col, tl.sum(gain, 0), mask=col < width)
            if SHIFT:
                tl.store(line + width + col, tl.sum(shift, 0), mask=col < width)

    @triton.jit
    def sum_lines(parts, out, lines, width, LINES: tl.constexpr, BLOCK: tl.constexpr):
        """out[c] = sum of parts[:, c], always in the same order."""
        col = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        total = tl.zeros([LINES, BLOCK], tl.float32)
        for start in range(0, lines, LINES):
            line = start + tl.arange(0, LINES)
            keep = (line < lines)[:, None] & (col < width)[None, :]
            at = line.to(tl.int64)[:, None] * width + col[None, :]
            total += tl.load(parts + at, mask=keep, other=0.0)
        y = tl.sum(total, 0)
        tl.store(out + col, y.to(out.dtype.element_ty), mask=col < width)


def norm_config(width: int) -> tuple[int, int, int, int, int]:
    """(rows of a tile, warps) forward, the same backward, and most programs backward."""
    block = triton.next_power_of_2(width)
    rows = max(1, 2048 // block)
    warps = 4 if block <= 2048 else 8 if block <= 8192 else 16
    return rows, warps, rows, warps, 512


def norm_forward(
    x: Tensor,
    r: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    center: bool,
    dtype: torch.dtype,
    config: tuple[int, int, int, int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """(s, y); s is x itself without r."""
    width = x.shape[-1]
    x = x.contiguous()
    total = x if r is None else torch.empty_like(x, dtype=torch.promote_types(x.dtype, r.dtype))
    out = torch.empty_like(x, dtype=dtype)
    rows, warps, *_ = config or norm_config(width)
    count, unit = x.numel() // width, math.gcd(width, 8)
    norm_rows_forward[(triton.cdiv(count, rows),)](
        x,
        None if r is None else r.contiguous(),
        weight,
        bias,
        total,
        out,
        count,
        width // unit,
        eps,
        center,
        unit,
        rows,
        triton.next_power_of_2(width),
        num_warps=warps,
    )
    return total, out


def norm_backward(
    s: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dy: Tensor,
    more: Tensor | None,
    eps: float,
    center: bool,
    dtypes: tuple[torch.dtype, torch.dtype | None],
    config: tuple[int, int, int, int, int] | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, r, weight and bias; `dtypes` are those of x and r."""
    width = s.shape[-1]
    _, _, rows, warps, most = config or norm_config(width)
    count, unit = s.numel() // width, math.gcd(width, 8)
    programs = min(most, triton.cdiv(count, rows))
    dx = torch.empty_like(s, dtype=dtypes[0])
    dr = None if dtypes[1] in (None, dtypes[0]) else torch.empty_like(s, dtype=dtypes[1])
    kinds = (weight is not None) + (bias is not None)
    parts = s.new_empty(programs, kinds * width, dtype=torch.float32) if kinds else None
    norm_rows_backward[(programs,)](
        s,
        weight,
        dy.contiguous(),
        None if more is None else more.contiguous(),
        dx,
        dr,
        parts,
        count,
        width // unit,
        eps,
        center,
        bias is not None,
        unit,
        rows,
        triton.next_power_of_2(width),
        num_warps=warps,
    )
    gains = None if parts is None else lines_summed(parts)
    dweight = None if weight is None or gains is None else gains[:width].to(weight.dtype)
    dbias = None if bias is None or gains is None else gains[width:].to(bias.dtype)
    return dx, (dx if dr is None and dtypes[1] is not None else dr), dweight, dbias


def lines_summed(parts: Tensor) -> Tensor:
    """The sum of fp32 `parts` [P, W] over P, in a fixed order."""
    lines, width = parts.shape
    out = parts.new_empty(width)
    tall = min(512, triton.next_power_of_2(lines))
    wide = 16 if tall > 64 else 64
    sum_lines[(triton.cdiv(width, wide),)](parts, out, lines, width, tall, wide, num_warps=4)
    return out


class NormRows(torch.autograd.Function):
    """y, or (s, y) if `both`: then the gradient of s joins that of x in the same pass."""

    @staticmethod
    def forward(ctx, x, r, weight, bias, eps, center, dtype, both):
        s, y = norm_forward(x, r, weight, bias, eps, center, dtype)
        ctx.save_for_backward(s, weight, bias)
        ctx.kind = eps, center, (x.dtype, None if r is None else r.dtype)
        ctx.set_materialize_grads(False)
        return (x if r is None else s, y) if both else y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):
        s, weight, bias = ctx.saved_tensors
        eps, center, dtypes = ctx.kind
        more, dy = grads if len(grads) > 1 else (None, grads[0])
        if dy is None:  # nobody read y
            dr = None if dtypes[1] is None else more.to(dtypes[1])
            return more.to(dtypes[0]), dr, *(None,) * 6
        found = norm_backward(s, weight, bias, dy, more, eps, center, dtypes)
        return *found, *(None,) * 4


SUM_LINES: tuple[Callable[..., Any], ...] = (
    *((sum_lines,) if triton is not None else ()),
    lines_summed,
)
NORM_KERNELS: tuple[Callable[..., Any], ...] = (
    *((norm_rows_forward, norm_rows_backward) if triton is not None else ()),
    *SUM_LINES,
    norm_config,
    norm_forward,
    norm_backward,
    NormRows,
)
