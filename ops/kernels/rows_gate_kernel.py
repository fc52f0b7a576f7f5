"""Gated activations on a GPU: y = act(a) * b from rows that hold a and b side by side.

    y = act(a) b,   da = dy b act'(a),   db = dy act(a)
    act: silu a sig(a);  gelu a Phi(a), exact;  none a

Shapes: z [..., 2 H] = (a | b) -> y [..., H]. Backward reads z again and writes both halves of its
gradient at their places, so that no concatenation follows. fp32 inside.
Floor in bytes an element of y, bf16: forward 4 + 2, backward 4 + 2 + 4.
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
    def gate_value(a, ACT: tl.constexpr):
        """act(a) and act'(a)."""
        if ACT == "silu":
            s = tl.sigmoid(a)
            value = a * s
            slope = s + value * (1.0 - s)
        elif ACT == "gelu":
            area = 0.5 + 0.5 * tl.erf(a * 0.7071067811865476)
            value = a * area
            slope = area + a * tl.exp(-0.5 * a * a) * 0.3989422804014327
        else:
            value = a
            slope = tl.full(a.shape, 1.0, tl.float32)
        return value, slope

    @triton.jit
    def gate_tile(z, count, units, UNIT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
        """Places in y and in z, H, which of them exist, a and b there."""
        width = units * UNIT
        row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
        col = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
        keep = (row < count) & (col < width)
        at = row.to(tl.int64) * width + col
        left = row.to(tl.int64) * (2 * width) + col
        a = tl.load(z + left, mask=keep, other=0.0).to(tl.float32)
        b = tl.load(z + left + width, mask=keep, other=0.0).to(tl.float32)
        return at, left, width, keep, a, b

    @triton.jit
    def gate_rows_forward(
        z,
        out,
        count,
        units,
        ACT: tl.constexpr,
        UNIT: tl.constexpr,
        ROWS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        at, _, _, keep, a, b = gate_tile(z, count, units, UNIT, ROWS, BLOCK)
        value, _ = gate_value(a, ACT)
        tl.store(out + at, (value * b).to(out.dtype.element_ty), mask=keep)

    @triton.jit
    def gate_rows_backward(
        z,
        dy,
        dz,
        count,
        units,
        ACT: tl.constexpr,
        UNIT: tl.constexpr,
        ROWS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        at, left, width, keep, a, b = gate_tile(z, count, units, UNIT, ROWS, BLOCK)
        g = tl.load(dy + at, mask=keep, other=0.0).to(tl.float32)
        value, slope = gate_value(a, ACT)
        tl.store(dz + left, (g * b * slope).to(dz.dtype.element_ty), mask=keep)
        tl.store(dz + left + width, (g * value).to(dz.dtype.element_ty), mask=keep)


def gate_config(width: int) -> tuple[int, int, int]:
    """(rows and columns of a tile, warps) for y of `width` columns."""
    block = max(16, min(128, triton.next_power_of_2(width)))
    return 2048 // block, block, 4


def gate_grid(
    z: Tensor, config: tuple[int, int, int] | None
) -> tuple[tuple[int, int], tuple[int, int, int, int, int], int]:
    """The grid, (rows, width in units, unit, tile rows, tile columns), and the warps."""
    width = z.shape[-1] // 2
    rows, block, warps = config or gate_config(width)
    count, unit = z.numel() // (2 * width), math.gcd(width, 8)
    grid = triton.cdiv(count, rows), triton.cdiv(width, block)
    return grid, (count, width // unit, unit, rows, block), warps


def gate_forward(z: Tensor, act: str, config: tuple[int, int, int] | None = None) -> Tensor:
    grid, (count, units, unit, rows, block), warps = gate_grid(z, config)
    out = z.new_empty(*z.shape[:-1], z.shape[-1] // 2)
    gate_rows_forward[grid](z, out, count, units, act, unit, rows, block, num_warps=warps)
    return out


def gate_backward(
    z: Tensor, dy: Tensor, act: str, config: tuple[int, int, int] | None = None
) -> Tensor:
    grid, (count, units, unit, rows, block), warps = gate_grid(z, config)
    dz = torch.empty_like(z)
    gate_rows_backward[grid](z, dy, dz, count, units, act, unit, rows, block, num_warps=warps)
    return dz


class GateRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, act):
        z = z.contiguous()
        ctx.save_for_backward(z)
        ctx.act = act
        return gate_forward(z, act)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        (z,) = ctx.saved_tensors
        return gate_backward(z, dy.contiguous(), ctx.act), None


GATE_VALUE: tuple[Callable[..., Any], ...] = (gate_value,) if triton is not None else ()
GATE_KERNELS: tuple[Callable[..., Any], ...] = (
    *GATE_VALUE,
    *((gate_tile, gate_rows_forward, gate_rows_backward) if triton is not None else ()),
    gate_config,
    gate_grid,
    gate_forward,
    gate_backward,
    GateRows,
)
