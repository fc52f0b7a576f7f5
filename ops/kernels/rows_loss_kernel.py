"""Cross-entropy of rows on a GPU: the softmax is never written, and the mean is found on the way.

    l = sum_rows (lse_i - z_i,y_i) / n,   lse_i = log sum_c e^{z_ic},   n rows with a label
    dz_ic = (e^{z_ic - lse_i} - [c = y_i]) g / n;   a row labelled `ignore` counts nowhere

Shapes: z [N, V] of any of the served dtypes, y [N] int64 -> l fp32, no axes; no labels at all give
NaN as in PyTorch. fp32 inside. Each program leaves its sum and its count, one program adds
these in a fixed order, so the value is the same in every run. Kept: z and lse [N].
Floor in bytes an element of z, bf16: forward 2, backward 2 + 2. For large V the logits themselves
are too many: `HeadLoss` makes them a few rows at a time, with the head's product.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"
# (what a kernel takes are pointers and numbers of the device: Python has no types for them)

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.kernels.rows_table_kernel import bias_gradient

try:
    import triton
    import triton.language as tl
except ImportError:  # the PyTorch reference serves
    triton = None

if triton is not None:

    @triton.jit
    def loss_rows_forward(
        z,
        label,
        lse,
        parts,
        count,
        units,
        ignore,
        UNIT: tl.constexpr,
        ROWS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        width = units * UNIT
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        inside = row < count
        line = z + row.to(tl.int64)[:, None] * width
        top = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        for start in range(0, width, BLOCK):
            col = (start + tl.arange(0, BLOCK))[None, :]
            keep = inside[:, None] & (col < width)
            part = tl.load(line + col, mask=keep, other=float("-inf")).to(tl.float32)
            higher = tl.maximum(top, tl.max(part, 1))
            base = tl.where(higher == float("-inf"), 0.0, higher)
            total = total * tl.exp(top - base) + tl.sum(tl.exp(part - base[:, None]), 1)
            top = higher
        log_sum = top + tl.log(tl.where(total == 0.0, 1.0, total))
        chosen = tl.load(label + row, mask=inside, other=ignore)
        counts = inside & (chosen != ignore)
        own = tl.load(z + row.to(tl.int64) * width + chosen, mask=counts, other=0.0)
        tl.store(lse + row, log_sum, mask=inside)
        lost = tl.where(counts, log_sum - own.to(tl.float32), 0.0)
        tl.store(parts + 2 * tl.program_id(0), tl.sum(lost, 0))
        tl.store(parts + 2 * tl.program_id(0) + 1, tl.sum(counts.to(tl.float32), 0))

    @triton.jit
    def loss_mean(parts, out, lines, LINES: tl.constexpr):
        """out = (mean, n) of the lines (sum, count)."""
        lost = tl.zeros([LINES], tl.float32)
        number = tl.zeros([LINES], tl.float32)
        for start in range(0, lines, LINES):
            line = start + tl.arange(0, LINES)
            lost += tl.load(parts + 2 * line, mask=line < lines, other=0.0)
            number += tl.load(parts + 2 * line + 1, mask=line < lines, other=0.0)
        n = tl.sum(number, 0)
        tl.store(out, tl.sum(lost, 0) / n)
        tl.store(out + 1, n)

    @triton.jit
    def loss_rows_backward(
        z,
        label,
        lse,
        found,
        grad,
        dz,
        count,
        units,
        ignore,
        UNIT: tl.constexpr,
        ROWS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        width = units * UNIT
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        inside = row < count
        col = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
        keep = inside[:, None] & (col < width)
        at = row.to(tl.int64)[:, None] * width + col
        chosen = tl.load(label + row, mask=inside, other=ignore)
        share = tl.load(grad).to(tl.float32) / tl.load(found + 1)
        share = tl.where(inside & (chosen != ignore), share, 0.0)
        part = tl.load(z + at, mask=keep, other=0.0).to(tl.float32)
        p = tl.exp(part - tl.load(lse + row, mask=inside, other=0.0)[:, None])
        d = (p - tl.where(col == chosen[:, None], 1.0, 0.0)) * share[:, None]
        d = tl.where(share[:, None] == 0.0, 0.0, d)  # an ignored row may hold inf
        tl.store(dz + at, d.to(dz.dtype.element_ty), mask=keep)


def loss_config(width: int) -> tuple[int, int, int]:
    """(rows and columns of a tile, warps) for `width` classes."""
    block = max(16, min(2048, triton.next_power_of_2(width)))
    return max(1, min(64, 4096 // block)), block, 4 if block <= 1024 else 8


def loss_lines(
    z: Tensor, label: Tensor, ignore: int, config: tuple[int, int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """(sum, count) of each program, and lse."""
    count, width = z.shape
    unit = math.gcd(width, 8)
    rows, block, warps = config or loss_config(width)
    programs = triton.cdiv(count, rows)
    lse = z.new_empty(count, dtype=torch.float32)
    parts = z.new_empty(programs, 2, dtype=torch.float32)
    loss_rows_forward[(programs,)](
        z, label, lse, parts, count, width // unit, ignore, unit, rows, block, num_warps=warps
    )
    return parts, lse


def loss_found(parts: Tensor) -> Tensor:
    """(mean loss, n) of the programs' (sum, count)."""
    found = parts.new_empty(2)
    loss_mean[(1,)](parts, found, parts.shape[0], 1024, num_warps=4)
    return found


def loss_forward(
    z: Tensor, label: Tensor, ignore: int, config: tuple[int, int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """(mean loss, n) as one tensor, and lse."""
    parts, lse = loss_lines(z, label, ignore, config)
    return loss_found(parts), lse


def loss_backward(
    z: Tensor,
    label: Tensor,
    lse: Tensor,
    found: Tensor,
    grad: Tensor,
    ignore: int,
    config: tuple[int, int, int] | None = None,
) -> Tensor:
    count, width = z.shape
    unit = math.gcd(width, 8)
    rows, block, warps = config or loss_config(width)
    dz = torch.empty_like(z)
    grid = triton.cdiv(count, rows), triton.cdiv(width, block)
    loss_rows_backward[grid](
        z,
        label,
        lse,
        found,
        grad,
        dz,
        count,
        width // unit,
        ignore,
        unit,
        rows,
        block,
        num_warps=warps,
    )
    return dz


class LossRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, label, ignore):
        z, label = z.contiguous(), label.contiguous()
        found, lse = loss_forward(z, label, ignore)
        ctx.save_for_backward(z, label, lse, found)
        ctx.ignore = ignore
        return found[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        z, label, lse, found = ctx.saved_tensors
        return loss_backward(z, label, lse, found, grad, ctx.ignore), None, None


class HeadLoss(torch.autograd.Function):
    """The loss of logits x W^T + b that are never whole: `chunk` rows at a time, in `dtype`.

    If they are wanted (`learn`), gradients are made on the way, while a chunk's logits are there:
    [N, V] is neither kept nor made twice. Backward only multiplies them with the loss's gradient.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, label, ignore, chunk, dtype, learn):
        ctx.types = x.dtype, weight.dtype, None if bias is None else bias.dtype
        x, w = x.to(dtype).contiguous(), weight.to(dtype)
        b, label = None if bias is None else bias.to(dtype), label.contiguous()
        total = (label != ignore).sum().float().repeat(2)  # as (mean, n): backward reads n
        one = torch.ones((), device=x.device)
        dx, dweight = torch.empty_like(x), torch.zeros_like(weight, dtype=torch.float32)
        dbias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
        lines = []
        with torch.autocast(x.device.type, enabled=False):
            for start in range(0, x.shape[0], chunk):
                rows, own = x[start : start + chunk], label[start : start + chunk]
                z = F.linear(rows, w, b)
                parts, lse = loss_lines(z, own, ignore)
                lines.append(parts)
                if not learn:
                    continue
                dz = loss_backward(z, own, lse, total, one, ignore)
                torch.mm(dz, w, out=dx[start : start + chunk])
                dweight += dz.mT @ rows
                if dbias is not None:
                    dbias += bias_gradient(dz)
        ctx.save_for_backward(dx, dweight, dbias)
        return loss_found(torch.cat(lines))[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        found = [
            None if g is None else (g * grad).to(t)
            for g, t in zip(ctx.saved_tensors, ctx.types, strict=True)
        ]
        return *found, None, None, None, None, None


LOSS_KERNELS: tuple[Callable[..., Any], ...] = (
    *((loss_rows_forward, loss_mean, loss_rows_backward) if triton is not None else ()),
    loss_config,
    loss_lines,
    loss_found,
    loss_forward,
    loss_backward,
    LossRows,
)
