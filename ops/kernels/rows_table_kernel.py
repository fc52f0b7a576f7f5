"""Gradients that add up rows, on a GPU: of an embedding's table and of a bias.

    table: dE_v = sum over tokens i with x_i = v of dy_i        bias: db = sum_i dy_i

Shapes: x [N] int64, dy [N, D] -> dE [V, D]; dy [N, D] -> db [D]. Each program adds up a slice of
the tokens into a line of its own, a second kernel adds the lines, both in a fixed order: no sorting
and no atomics. For the table a slice is a product, the one-hot matrix [V, tokens] times dy, which
is exact: fp32 is the sum of three bf16 numbers (SPLIT; Triton's interpreter has no bf16 product).
2 V N D FLOPs (6 for fp32): for small V only.
Floor in bytes: dy once; the lines are S V D (or S D) numbers, S slices.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"
# (what a kernel takes are pointers and numbers of the device: Python has no types for them)

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.kernels.rows_norm_kernel import SUM_LINES, lines_summed

try:
    import triton
    import triton.language as tl
except ImportError:  # the PyTorch reference serves
    triton = None

if triton is not None:

    @triton.jit
    def table_slices(
        ids,
        dy,
        parts,
        count,
        width,
        vocab,
        span,
        SPLIT: tl.constexpr,
        ROWS: tl.constexpr,
        TOKENS: tl.constexpr,
        WIDE: tl.constexpr,
    ):
        v = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        col = tl.program_id(2) * WIDE + tl.arange(0, WIDE)
        total = tl.zeros([ROWS, WIDE], tl.float32)
        for start in range(0, span, TOKENS):
            token = tl.program_id(0) * span + start + tl.arange(0, TOKENS)
            x = tl.load(ids + token, mask=token < count, other=-1)
            keep = (token < count)[:, None] & (col < width)[None, :]
            at = token.to(tl.int64)[:, None] * width + col[None, :]
            rows = tl.load(dy + at, mask=keep, other=0.0).to(tl.float32)
            if SPLIT:
                hot = (x[None, :] == v[:, None]).to(tl.bfloat16)
                high = rows.to(tl.bfloat16)
                total = tl.dot(hot, high, total)
                if dy.dtype.element_ty != tl.bfloat16:
                    rest = rows - high.to(tl.float32)
                    middle = rest.to(tl.bfloat16)
                    total = tl.dot(hot, middle, total)
                    total = tl.dot(hot, (rest - middle.to(tl.float32)).to(tl.bfloat16), total)
            else:
                hot = tl.where(x[None, :] == v[:, None], 1.0, 0.0)
                total = tl.dot(hot, rows, total, input_precision="ieee")
        line = (tl.program_id(0) * vocab + v).to(tl.int64)[:, None] * width
        keep = (v < vocab)[:, None] & (col < width)[None, :]
        tl.store(parts + line + col[None, :], total, mask=keep)

    @triton.jit
    def bias_slices(dy, parts, count, width, span, ROWS: tl.constexpr, WIDE: tl.constexpr):
        col = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
        total = tl.zeros([ROWS, WIDE], tl.float32)
        for start in range(0, span, ROWS):
            row = tl.program_id(0) * span + start + tl.arange(0, ROWS)
            keep = (row < count)[:, None] & (col < width)[None, :]
            at = row.to(tl.int64)[:, None] * width + col[None, :]
            total += tl.load(dy + at, mask=keep, other=0.0).to(tl.float32)
        tl.store(parts + tl.program_id(0) * width + col, tl.sum(total, 0), mask=col < width)


def table_config(count: int, vocab: int, width: int) -> tuple[int, int, int, int, int]:
    """(slices, ids, tokens and columns of a tile, warps): slices of 512 tokens, 32 at least.

    At most 32 ids, so that the products are no warpgroup products: their left side is computed, and
    CUDA 12's assembler may spoil such a product on Hopper.
    """
    rows = max(16, min(32, triton.next_power_of_2(vocab)))
    wide = max(16, min(64, triton.next_power_of_2(width)))
    return max(32, min(256, count // 512)), rows, 64, wide, 4


def table_gradient(
    ids: Tensor, dy: Tensor, vocab: int, config: tuple[int, int, int, int, int] | None = None
) -> Tensor:
    """dE [V, D] in fp32 of ids [N] and dy [N, D]; config: slices, ids and tokens and columns of a
    tile, warps."""
    count, width = dy.shape
    slices, rows, tokens, wide, warps = config or table_config(count, vocab, width)
    span = tokens * triton.cdiv(count, slices * tokens)
    slices = triton.cdiv(count, span)
    parts = dy.new_empty(slices, vocab * width, dtype=torch.float32)
    grid = slices, triton.cdiv(vocab, rows), triton.cdiv(width, wide)
    table_slices[grid](
        ids,
        dy,
        parts,
        count,
        width,
        vocab,
        span,
        dy.is_cuda,
        rows,
        tokens,
        wide,
        num_warps=warps,
    )
    return lines_summed(parts).view(vocab, width)


def bias_gradient(dy: Tensor, config: tuple[int, int, int, int] | None = None) -> Tensor:
    """db [D] in fp32 of dy [N, D]; config: slices, rows and columns of a tile, warps."""
    count, width = dy.shape
    slices, rows, wide, warps = config or (128, 64, 128, 2)
    span = rows * triton.cdiv(count, slices * rows)
    slices = triton.cdiv(count, span)
    parts = dy.new_empty(slices, width, dtype=torch.float32)
    grid = slices, triton.cdiv(width, wide)
    bias_slices[grid](dy, parts, count, width, span, rows, wide, num_warps=warps)
    return lines_summed(parts)


class TableRows(torch.autograd.Function):
    """Rows of a table [V, D] by ids."""

    @staticmethod
    def forward(ctx, ids, table):
        ctx.save_for_backward(ids)
        ctx.vocab, ctx.dtype = table.shape[0], table.dtype
        return F.embedding(ids, table)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        (ids,) = ctx.saved_tensors
        dy = dy.contiguous().flatten(0, -2)
        return None, table_gradient(ids.flatten(), dy, ctx.vocab).to(ctx.dtype)


class LinearRows(torch.autograd.Function):
    """x W^T + b in `dtype`."""

    @staticmethod
    def forward(ctx, x, weight, bias, dtype):
        ctx.types = x.dtype, weight.dtype, bias.dtype
        x, weight = x.to(dtype), weight.to(dtype)
        ctx.save_for_backward(x, weight)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x, weight, bias.to(dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        rows = dy.contiguous().flatten(0, -2)
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0]:
            dx = (rows @ weight).view(x.shape).to(ctx.types[0])
        if ctx.needs_input_grad[1]:
            dweight = (rows.mT @ x.flatten(0, -2)).to(ctx.types[1])
        if ctx.needs_input_grad[2]:
            dbias = bias_gradient(rows).to(ctx.types[2])
        return dx, dweight, dbias, None


TABLE_KERNELS: tuple[Callable[..., Any], ...] = (
    *((table_slices,) if triton is not None else ()),
    *SUM_LINES,
    table_config,
    table_gradient,
    TableRows,
)
BIAS_KERNELS: tuple[Callable[..., Any], ...] = (
    *((bias_slices,) if triton is not None else ()),
    *SUM_LINES,
    bias_gradient,
    LinearRows,
)
