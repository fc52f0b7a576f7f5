"""Short causal depthwise convolutions on a GPU, with silu: read once forward, no transposes.

    u_t = sum_j w_j x_{t-J+1+j} + bias,   y = silu(u) or u,   J taps a channel
    ds = dy silu'(u),   dx_t = sum_j w_j ds_{t+J-1-j},   dw_j = sum_t ds_t x_{t-J+1+j}

Shapes: x [B, T, D] -> y [B, T, D], w [D, 1, J], bias [D]; x may be a slice of wider rows. torch's
convolution wants [B, D, T]: two transposes, a padded copy and silu of its own around it. Backward
is two kernels: ds, from u computed again, while dw is summed in registers over the tiles of a
program; then dx from ds. fp32 inside. The taps of a tile overlap: all but the first are in L1.
Floor in bytes an element, bf16: forward 2 + 2, backward 2 + 2 + 2 and ds written and read.
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
    def short_tap(x, start, length, stride, col, width, ROWS: tl.constexpr):
        """[ROWS, COLS] of the tokens from `start` on, zeros outside of the row."""
        i = tl.arange(0, ROWS)
        inside = ((start + i >= 0) & (start + i < length))[:, None] & (col < width)[None, :]
        first = x + start.to(tl.int64) * stride  # what is added to it fits 32 bits
        spot = first + (i[:, None] * stride + col[None, :])
        return tl.load(spot, mask=inside, other=0.0).to(tl.float32)

    @triton.jit
    def short_store(y, value, start, length, col, width, ROWS: tl.constexpr):
        i = tl.arange(0, ROWS)
        inside = (start + i < length)[:, None] & (col < width)[None, :]
        spot = y + start.to(tl.int64) * width + (i[:, None] * width + col[None, :])
        tl.store(spot, value.to(y.dtype.element_ty), mask=inside)

    @triton.jit
    def short_weight(w, j, col, width, J: tl.constexpr):
        return tl.load(w + col * J + j, mask=col < width, other=0.0).to(tl.float32)[None, :]

    @triton.jit(do_not_specialize=["T"])
    def short_forward(
        x, w, bias, y, xb, xt, T, units, J: tl.constexpr, ACT: tl.constexpr, BIAS: tl.constexpr,
        UNIT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    ):  # fmt: skip
        """A tile of tokens and channels; widths and strides come in units of UNIT numbers."""
        tiles = tl.cdiv(T, ROWS)
        b = (tl.program_id(0) // tiles).to(tl.int64)
        start = (tl.program_id(0) % tiles) * ROWS
        col = tl.program_id(1) * COLS + tl.arange(0, COLS)
        width = units * UNIT
        x += b * (xb * UNIT)
        u = tl.zeros([ROWS, COLS], tl.float32)
        if BIAS:
            u += tl.load(bias + col, mask=col < width, other=0.0).to(tl.float32)[None, :]
        for j in tl.static_range(J):
            seen = short_tap(x, start - (J - 1) + j, T, xt * UNIT, col, width, ROWS)
            u += seen * short_weight(w, j, col, width, J)
        if ACT:
            u = u * tl.sigmoid(u)
        short_store(y + b * T * width, u, start, T, col, width, ROWS)

    @triton.jit(do_not_specialize=["T", "count"])
    def short_slopes(
        x, w, bias, dy, ds, parts, xb, xt, gb, gt, T, units, count, J: tl.constexpr,
        ACT: tl.constexpr, BIAS: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr,
        COLS: tl.constexpr,
    ):  # fmt: skip
        """ds of every num_programs-th of `count` tiles of tokens, for J <= 4; and parts
        [programs, J + 1, D] of dw and, last, of the bias's gradient."""
        tiles = tl.cdiv(T, ROWS)
        width = units * UNIT
        col = tl.program_id(1) * COLS + tl.arange(0, COLS)
        w0 = short_weight(w, 0, col, width, J)
        w1 = short_weight(w, 1, col, width, J) if J > 1 else w0
        w2 = short_weight(w, 2, col, width, J) if J > 2 else w0
        w3 = short_weight(w, 3, col, width, J) if J > 3 else w0
        if BIAS:
            base = tl.load(bias + col, mask=col < width, other=0.0).to(tl.float32)[None, :]
        else:
            base = w0 * 0.0
        total = tl.zeros([ROWS, COLS], tl.float32)
        a0 = tl.zeros([ROWS, COLS], tl.float32)
        a1 = tl.zeros([ROWS, COLS], tl.float32)
        a2 = tl.zeros([ROWS, COLS], tl.float32)
        a3 = tl.zeros([ROWS, COLS], tl.float32)
        for tile in range(tl.program_id(0), count, tl.num_programs(0)):
            b = (tile // tiles).to(tl.int64)
            start = (tile % tiles) * ROWS
            here = x + b * (xb * UNIT)
            g = short_tap(dy + b * (gb * UNIT), start, T, gt * UNIT, col, width, ROWS)
            x0 = short_tap(here, start - (J - 1), T, xt * UNIT, col, width, ROWS)
            x1 = short_tap(here, start - (J - 2), T, xt * UNIT, col, width, ROWS) if J > 1 else x0
            x2 = short_tap(here, start - (J - 3), T, xt * UNIT, col, width, ROWS) if J > 2 else x0
            x3 = short_tap(here, start - (J - 4), T, xt * UNIT, col, width, ROWS) if J > 3 else x0
            if ACT:
                u = base + x0 * w0
                if J > 1:
                    u += x1 * w1
                if J > 2:
                    u += x2 * w2
                if J > 3:
                    u += x3 * w3
                s = tl.sigmoid(u)
                g = g * (s + u * s * (1.0 - s))
                short_store(ds + b * T * width, g, start, T, col, width, ROWS)
            total += g
            a0 += x0 * g
            if J > 1:
                a1 += x1 * g
            if J > 2:
                a2 += x2 * g
            if J > 3:
                a3 += x3 * g
        line = parts + tl.program_id(0).to(tl.int64) * (J + 1) * width + col
        tl.store(line, tl.sum(a0, 0), mask=col < width)
        if J > 1:
            tl.store(line + width, tl.sum(a1, 0), mask=col < width)
        if J > 2:
            tl.store(line + 2 * width, tl.sum(a2, 0), mask=col < width)
        if J > 3:
            tl.store(line + 3 * width, tl.sum(a3, 0), mask=col < width)
        tl.store(line + J * width, tl.sum(total, 0), mask=col < width)

    @triton.jit(do_not_specialize=["T"])
    def short_back(
        ds, w, dx, sb, st, T, units, J: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr,
        COLS: tl.constexpr,
    ):  # fmt: skip
        tiles = tl.cdiv(T, ROWS)
        b = (tl.program_id(0) // tiles).to(tl.int64)
        start = (tl.program_id(0) % tiles) * ROWS
        col = tl.program_id(1) * COLS + tl.arange(0, COLS)
        width = units * UNIT
        ds += b * (sb * UNIT)
        total = tl.zeros([ROWS, COLS], tl.float32)
        for j in tl.static_range(J):
            slope = short_tap(ds, start + (J - 1) - j, T, st * UNIT, col, width, ROWS)
            total += slope * short_weight(w, j, col, width, J)
        short_store(dx + b * T * width, total, start, T, col, width, ROWS)


def short_config(length: int, width: int) -> dict[str, int]:
    """Tokens and channels of a tile, and the warps."""
    rows = min(32, max(16, triton.next_power_of_2(length)))
    cols = min(64, max(16, triton.next_power_of_2(width)))
    return {"ROWS": rows, "COLS": cols, "num_warps": 4}


def short_sizes(x: Tensor, config: dict[str, int]) -> tuple[int, int, int, int]:
    """Tiles of tokens of all rows, tiles of channels, D in units and the unit."""
    b, t, d = x.shape
    unit = math.gcd(d, 8)
    tiles = b * triton.cdiv(t, config["ROWS"])
    return tiles, triton.cdiv(d, config["COLS"]), d // unit, unit


def short_strides(x: Tensor, unit: int) -> tuple[Tensor, int, int]:
    """x, copied unless channels are next to each other and its strides are whole units; these."""
    b, t, _ = x.stride()
    if x.stride(-1) != 1 or b % unit or t % unit:
        x = x.contiguous()
    return x, x.stride(0) // unit, x.stride(1) // unit


class ShortRows(torch.autograd.Function):
    """y in `dtype` of x [B, T, D], w [D, 1, J] with J <= 4, bias [D] or None; `act`: with silu."""

    @staticmethod
    def forward(ctx, x, w, bias, act, dtype, config=None):
        w, t, taps = w.contiguous(), x.shape[1], w.shape[-1]
        config = config or short_config(t, x.shape[2])
        tiles, across, units, unit = short_sizes(x, config)
        x, *strides = short_strides(x, unit)
        y = x.new_empty(x.shape, dtype=dtype)
        short_forward[tiles, across](
            x, w, w if bias is None else bias, y, *strides, t, units,
            J=taps, ACT=act, BIAS=bias is not None, UNIT=unit, **config,
        )  # fmt: skip
        ctx.save_for_backward(x, w, bias)
        ctx.act, ctx.config = act, config
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        x, w, bias = ctx.saved_tensors
        (_, t, d), taps = x.shape, w.shape[-1]
        tiles, across, units, unit = short_sizes(x, ctx.config)
        x, *strides = short_strides(x, unit)
        dy, *others = short_strides(dy, unit)
        ds = dy.new_empty(x.shape) if ctx.act else dy
        # The sums of dw stay in registers: half a tile leaves room for a third program beside two.
        slim = {**ctx.config, "ROWS": min(16, ctx.config["ROWS"])}
        count = short_sizes(x, slim)[0]
        programs = min(count, triton.cdiv(1024, across))
        parts = x.new_empty(programs, taps + 1, d, dtype=torch.float32)
        short_slopes[programs, across](
            x, w, w if bias is None else bias, dy, ds, parts, *strides, *others, t, units, count,
            J=taps, ACT=ctx.act, BIAS=bias is not None, UNIT=unit, **slim,
        )  # fmt: skip
        ds, *strides = short_strides(ds, unit)
        dx = x.new_empty(x.shape)
        short_back[tiles, across](ds, w, dx, *strides, t, units, J=taps, UNIT=unit, **ctx.config)
        sums = parts.sum(0)
        dw = sums[:taps].T.reshape(w.shape).to(w.dtype)
        return dx, dw, None if bias is None else sums[taps].to(bias.dtype), None, None, None


SHORT_JIT: tuple[Any, ...] = (
    (short_tap, short_store, short_weight, short_forward, short_slopes, short_back)
    if triton is not None
    else ()
)
SHORT_KERNELS: tuple[Callable[..., Any], ...] = (
    *SHORT_JIT,
    short_config,
    short_sizes,
    short_strides,
    ShortRows,
)
