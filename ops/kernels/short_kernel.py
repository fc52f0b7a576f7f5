"""Short causal depthwise convolutions on a GPU, with silu: read once forward, no transposes.

    u_t = sum_j w_j x_{t-J+1+j} + bias,   y = silu(u) or u,   J taps a channel
    ds = dy silu'(u),   dx_t = sum_j w_j ds_{t+J-1-j},   dw_j = sum_t ds_t x_{t-J+1+j}

Shapes: x [B, T, D] -> y [B, T, D], w [D, 1, J], bias [D]; x may be a slice of wider rows. torch's
convolution wants [B, D, T]: two transposes, a padded copy and silu of its own around it. Backward
is two kernels: ds, from u computed again, with a partial dw of each tile, added up in a fixed
order; then dx from ds. fp32 inside. The taps of a tile overlap, so all but the first come from L1.
Floor in bytes an element, bf16: forward 2 + 2, backward 2 + 2 + 2 and ds written and read.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"
# (what a kernel takes are pointers and numbers of the device: Python has no types for them)

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
    def short_tile(T, D, ROWS: tl.constexpr, COLS: tl.constexpr):
        """(batch, tokens [ROWS, 1], channels [1, COLS]) of a program."""
        tiles = tl.cdiv(T, ROWS)
        b = (tl.program_id(0) // tiles).to(tl.int64)
        row = ((tl.program_id(0) % tiles) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
        col = (tl.program_id(1) * COLS + tl.arange(0, COLS))[None, :]
        return b, row, col

    @triton.jit
    def short_taps(x, w, bias, row, col, xt, T, D, J: tl.constexpr, BIAS: tl.constexpr):
        """u of the tile; x at its batch."""
        u = tl.zeros([row.shape[0], col.shape[1]], tl.float32)
        if BIAS:
            u += tl.load(bias + col, mask=col < D, other=0.0).to(tl.float32)
        for j in tl.static_range(J):
            at = row - (J - 1) + j
            seen = tl.load(x + at * xt + col, mask=(at >= 0) & (at < T) & (col < D), other=0.0)
            tap = tl.load(w + col * J + j, mask=col < D, other=0.0)
            u += seen.to(tl.float32) * tap.to(tl.float32)
        return u

    @triton.jit(do_not_specialize=["T"])
    def short_forward(
        x, w, bias, y, xb, xt, T, D, J: tl.constexpr, ACT: tl.constexpr, BIAS: tl.constexpr,
        ROWS: tl.constexpr, COLS: tl.constexpr,
    ):  # fmt: skip
        b, row, col = short_tile(T, D, ROWS, COLS)
        u = short_taps(x + b * xb, w, bias, row, col, xt, T, D, J, BIAS)
        if ACT:
            u = u * tl.sigmoid(u)
        inside = (row < T) & (col < D)
        tl.store(y + (b * T + row) * D + col, u.to(y.dtype.element_ty), mask=inside)

    @triton.jit(do_not_specialize=["T"])
    def short_slopes(
        x, w, bias, dy, ds, parts, xb, xt, gb, gt, T, D, J: tl.constexpr, ACT: tl.constexpr,
        BIAS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    ):  # fmt: skip
        """ds [B, T, D] and parts [tiles, J + 1, D] of dw and, last, of the bias's gradient."""
        b, row, col = short_tile(T, D, ROWS, COLS)
        x += b * xb
        inside = (row < T) & (col < D)
        g = tl.load(dy + b * gb + row * gt + col, mask=inside, other=0.0).to(tl.float32)
        if ACT:
            u = short_taps(x, w, bias, row, col, xt, T, D, J, BIAS)
            s = tl.sigmoid(u)
            g = g * (s + u * s * (1.0 - s))
            tl.store(ds + (b * T + row) * D + col, g.to(ds.dtype.element_ty), mask=inside)
        line = parts + tl.program_id(0).to(tl.int64) * (J + 1) * D + col
        for j in tl.static_range(J):
            at = row - (J - 1) + j
            seen = tl.load(x + at * xt + col, mask=(at >= 0) & (at < T) & (col < D), other=0.0)
            total = tl.sum(seen.to(tl.float32) * g, 0)[None, :]
            tl.store(line + j * D, total, mask=col < D)
        tl.store(line + J * D, tl.sum(g, 0)[None, :], mask=col < D)

    @triton.jit(do_not_specialize=["T"])
    def short_back(
        ds, w, dx, sb, st, T, D, J: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr
    ):
        b, row, col = short_tile(T, D, ROWS, COLS)
        total = tl.zeros([ROWS, COLS], tl.float32)
        for j in tl.static_range(J):
            at = row + (J - 1) - j
            slope = tl.load(ds + b * sb + at * st + col, mask=(at < T) & (col < D), other=0.0)
            tap = tl.load(w + col * J + j, mask=col < D, other=0.0)
            total += slope.to(tl.float32) * tap.to(tl.float32)
        inside = (row < T) & (col < D)
        tl.store(dx + (b * T + row) * D + col, total.to(dx.dtype.element_ty), mask=inside)


def short_config(length: int, width: int) -> dict[str, int]:
    """Tokens and channels of a tile, and the warps."""
    rows = min(32, max(16, triton.next_power_of_2(length)))
    cols = min(64, max(16, triton.next_power_of_2(width)))
    return {"ROWS": rows, "COLS": cols, "num_warps": 4}


def short_grid(x: Tensor, config: dict[str, int]) -> tuple[int, int]:
    """Programs: tiles of tokens of all rows, tiles of channels."""
    b, t, d = x.shape
    return b * triton.cdiv(t, config["ROWS"]), triton.cdiv(d, config["COLS"])


class ShortRows(torch.autograd.Function):
    """y in `dtype` of x [B, T, D], w [D, 1, J], bias [D] or None; `act`: with silu."""

    @staticmethod
    def forward(ctx, x, w, bias, act, dtype, config=None):
        x, w = x if x.stride(-1) == 1 else x.contiguous(), w.contiguous()
        (_, t, d), taps = x.shape, w.shape[-1]
        config = config or short_config(t, d)
        y = x.new_empty(x.shape, dtype=dtype)
        short_forward[short_grid(x, config)](
            x, w, w if bias is None else bias, y, *x.stride()[:2], t, d,
            J=taps, ACT=act, BIAS=bias is not None, **config,
        )  # fmt: skip
        ctx.save_for_backward(x, w, bias)
        ctx.act, ctx.config = act, config
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        x, w, bias = ctx.saved_tensors
        (_, t, d), taps, grid = x.shape, w.shape[-1], short_grid(x, ctx.config)
        dy = dy if dy.stride(-1) == 1 else dy.contiguous()
        ds = dy.new_empty(x.shape) if ctx.act else dy
        parts = x.new_empty(grid[0], taps + 1, d, dtype=torch.float32)
        short_slopes[grid](
            x, w, w if bias is None else bias, dy, ds, parts, *x.stride()[:2], *dy.stride()[:2],
            t, d, J=taps, ACT=ctx.act, BIAS=bias is not None, **ctx.config,
        )  # fmt: skip
        dx = x.new_empty(x.shape)
        short_back[grid](ds, w, dx, *ds.stride()[:2], t, d, J=taps, **ctx.config)
        sums = parts.sum(0)
        dw = sums[:taps].T.reshape(w.shape).to(w.dtype)
        return dx, dw, None if bias is None else sums[taps].to(bias.dtype), None, None, None


SHORT_JIT: tuple[Any, ...] = (
    (short_tile, short_taps, short_forward, short_slopes, short_back) if triton is not None else ()
)
SHORT_KERNELS: tuple[Callable[..., Any], ...] = (*SHORT_JIT, short_config, short_grid, ShortRows)
