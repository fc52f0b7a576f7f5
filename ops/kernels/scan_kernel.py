"""Linear recurrences on a GPU, one pass over memory: h_t = a_t h_{t-1} + b_t, h_0 = 0.

    plain  a, b as given
    gru    a = sig(-z), b = sig(z) g(c)
    lstm   a = sig(-d), b = sig(d) g(c), d = softplus(-f) - softplus(-i)
    g(u) = u + 1/2 for u >= 0, sig(u) below

Backward, with e_t the gradient of output t:
    q_t = e_t + a_{t+1} q_{t+1},   da_t = q_t h_{t-1},   db_t = q_t, and on to the gates

Shapes: gates and h [B, T, D] each, any row stride; D contiguous. A program takes a strip of
channels of one sequence and walks over T in tiles; inside a tile an associative scan, between tiles
the last row, both fp32. Where there are too few strips to fill the chip, T is cut into
chunks: a first pass finds what each chunk does to a state, a scan over the chunks finds the states
at their starts, and the main pass starts from these. Kept: the gates and h, in the output's type.
Floor in bytes an element of h: plain fp32 forward 8 + 4, backward 12 + 8; gru in bf16 4 + 2, 8 + 4.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"
# (what a kernel takes are pointers and numbers of the device: Python has no types for them)

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ops.kernels.scan_step_kernel import SCAN_STEPS

try:
    import triton
    import triton.language as tl
except ImportError:  # the PyTorch reference serves
    triton = None

if triton is not None:
    from ops.kernels.scan_step_kernel import (
        scan_after,
        scan_join,
        scan_positive,
        scan_share,
        scan_terms,
    )

    @triton.jit(do_not_specialize=["length", "width", "step", "chunk"])
    def scan_ends(
        first,
        second,
        third,
        grad,
        slope,
        end,
        length,
        width,
        step,
        chunk,
        KIND: tl.constexpr,
        REVERSE: tl.constexpr,
        TALL: tl.constexpr,
        WIDE: tl.constexpr,
    ):
        """What chunk n does to a state, in the line of its turn: h -> slope h + end."""
        col = tl.program_id(0) * WIDE + tl.arange(0, WIDE)
        batch, n = tl.program_id(1).to(tl.int64), tl.program_id(2)
        inner = tl.arange(0, TALL)
        factor = tl.full([WIDE], 1.0, tl.float32)
        state = tl.zeros([WIDE], tl.float32)
        tiles = chunk // TALL
        for i in range(0, tiles):
            j = tiles - 1 - i if REVERSE else i
            time = n * chunk + j * TALL + (TALL - 1 - inner if REVERSE else inner)
            keep = (time < length)[:, None] & (col < width)[None, :]
            row = (batch * length + time)[:, None]
            if REVERSE:
                a = scan_after(
                    first,
                    second,
                    row * step + col[None, :],
                    step,
                    keep & (time + 1 < length)[:, None],
                    KIND,
                )
                b = tl.load(grad + row * width + col[None, :], mask=keep, other=0.0)
                b = b.to(tl.float32)
                a = tl.where(keep, a, 1.0)
            else:
                a, b = scan_terms(first, second, third, row * step + col[None, :], keep, KIND)
            a, b = tl.associative_scan((a, b), 0, scan_join)
            last = (inner == TALL - 1)[:, None]
            a = tl.sum(tl.where(last, a, 0.0), 0)
            state = tl.sum(tl.where(last, b, 0.0), 0) + a * state
            factor *= a
        turn = tl.num_programs(2) - 1 - n if REVERSE else n
        at = (batch * tl.num_programs(2) + turn) * width + col
        tl.store(slope + at, factor, mask=col < width)
        tl.store(end + at, state, mask=col < width)

    @triton.jit(do_not_specialize=["length", "width", "step", "chunk"])
    def scan_forward_kernel(
        first,
        second,
        third,
        start,
        out,
        length,
        width,
        step,
        chunk,
        KIND: tl.constexpr,
        TALL: tl.constexpr,
        WIDE: tl.constexpr,
    ):
        col = tl.program_id(0) * WIDE + tl.arange(0, WIDE)
        batch, n = tl.program_id(1).to(tl.int64), tl.program_id(2)
        inner = tl.arange(0, TALL)
        state = tl.zeros([WIDE], tl.float32)
        if start is not None:
            line = (batch * tl.num_programs(2) + n - 1) * width
            state = tl.load(start + line + col, mask=(col < width) & (n > 0), other=0.0)
        stop = tl.minimum(length, (n + 1) * chunk)
        for begin in range(n * chunk, stop, TALL):
            time = begin + inner
            keep = (time < length)[:, None] & (col < width)[None, :]
            row = (batch * length + time)[:, None]
            a, b = scan_terms(first, second, third, row * step + col[None, :], keep, KIND)
            a, b = tl.associative_scan((a, b), 0, scan_join)
            h = b + a * state[None, :]
            state = tl.sum(tl.where((inner == TALL - 1)[:, None], h, 0.0), 0)
            tl.store(out + row * width + col[None, :], h.to(out.dtype.element_ty), mask=keep)

    @triton.jit(do_not_specialize=["length", "width", "step", "chunk"])
    def scan_backward_kernel(
        first,
        second,
        third,
        start,
        out,
        grad,
        dfirst,
        dsecond,
        dthird,
        length,
        width,
        step,
        chunk,
        KIND: tl.constexpr,
        TALL: tl.constexpr,
        WIDE: tl.constexpr,
    ):
        col = tl.program_id(0) * WIDE + tl.arange(0, WIDE)
        batch, n = tl.program_id(1).to(tl.int64), tl.program_id(2)
        inner = tl.arange(0, TALL)
        state = tl.zeros([WIDE], tl.float32)
        if start is not None:
            turn = tl.num_programs(2) - 1 - n
            line = (batch * tl.num_programs(2) + turn - 1) * width
            state = tl.load(start + line + col, mask=(col < width) & (turn > 0), other=0.0)
        tiles = tl.cdiv(tl.minimum(chunk, length - n * chunk), TALL)
        for i in range(0, tiles):
            time = n * chunk + (tiles - i) * TALL - 1 - inner  # latest first
            keep = (time < length)[:, None] & (col < width)[None, :]
            row = (batch * length + time)[:, None]
            at, place = row * step + col[None, :], row * width + col[None, :]
            a = scan_after(first, second, at, step, keep & (time + 1 < length)[:, None], KIND)
            e = tl.load(grad + place, mask=keep, other=0.0).to(tl.float32)
            past = tl.load(out + place - width, mask=keep & (time > 0)[:, None], other=0.0)
            a, e = tl.associative_scan((a, e), 0, scan_join)
            q = e + a * state[None, :]
            state = tl.sum(tl.where((inner == TALL - 1)[:, None], q, 0.0), 0)
            da = q * past.to(tl.float32)
            if KIND == "plain":
                tl.store(dfirst + at, da.to(dfirst.dtype.element_ty), mask=keep)
                tl.store(dsecond + at, q.to(dsecond.dtype.element_ty), mask=keep)
            else:
                s = scan_share(first, second, at, keep, KIND)
                source = second if KIND == "gru" else third
                value, slope = scan_positive(
                    tl.load(source + at, mask=keep, other=0.0).to(tl.float32)
                )
                ds = (q * value - da) * s * (1.0 - s)
                dc = (q * s * slope).to(dfirst.dtype.element_ty)
                if KIND == "gru":
                    tl.store(dfirst + at, ds.to(dfirst.dtype.element_ty), mask=keep)
                    tl.store(dsecond + at, dc, mask=keep)
                else:
                    f = tl.load(first + at, mask=keep, other=0.0).to(tl.float32)
                    g = tl.load(second + at, mask=keep, other=0.0).to(tl.float32)
                    df = -ds * tl.sigmoid(-f)
                    dg = ds * tl.sigmoid(-g)
                    tl.store(dfirst + at, df.to(dfirst.dtype.element_ty), mask=keep)
                    tl.store(dsecond + at, dg.to(dfirst.dtype.element_ty), mask=keep)
                    tl.store(dthird + at, dc, mask=keep)


def scan_config(length: int, width: int) -> tuple[int, int, int]:
    """(rows and columns of a tile, warps) for T and D."""
    tall = max(16, min(64, triton.next_power_of_2(length)))
    return tall, max(16, min(32, triton.next_power_of_2(width))), 4


def scan_chunk(batch: int, length: int, width: int, tall: int, wide: int) -> int:
    """The length of a chunk: all of T, or less where there are too few strips for the chip."""
    strips = batch * -(-width // wide)
    chunks = min(-(-528 // strips), -(-length // (8 * tall)))
    return tall * -(-length // (tall * chunks))


def scan_starts(
    gates: tuple[Tensor, Tensor, Tensor],
    grad: Tensor | None,
    shape: tuple[int, int, int],
    kind: str,
    chunk: int,
    config: tuple[int, int, int],
) -> Tensor | None:
    """The states after each chunk in its turn (backward with `grad`), [B, chunks, D]."""
    (batch, length, width), (tall, wide, warps) = shape, config
    count = triton.cdiv(length, chunk)
    if count == 1:
        return None
    slope, end = gates[0].new_empty(2, batch, count, width, dtype=torch.float32)
    grid = triton.cdiv(width, wide), batch, count
    step = gates[0].stride(1)
    scan_ends[grid](
        *gates,
        grad,
        slope,
        end,
        length,
        width,
        step,
        chunk,
        kind,
        grad is not None,
        tall,
        wide,
        num_warps=warps,
    )
    states = torch.empty_like(end)
    scan_forward_kernel[grid[:2]](
        slope,
        end,
        end,
        None,
        states,
        count,
        width,
        width,
        count,
        "plain",
        16,
        wide,
        num_warps=warps,
    )
    return states


def scan_forward(
    gates: tuple[Tensor, Tensor, Tensor],
    kind: str,
    dtype: torch.dtype,
    config: tuple[int, int, int] | None = None,
    chunk: int | None = None,
) -> Tensor:
    """h [B, T, D] in `dtype`; the gates have equal strides and D is contiguous."""
    batch, length, width = gates[0].shape
    tall, wide, warps = config = config or scan_config(length, width)
    chunk = chunk or scan_chunk(batch, length, width, tall, wide)
    start = scan_starts(gates, None, (batch, length, width), kind, chunk, config)
    out = gates[0].new_empty(batch, length, width, dtype=dtype)
    grid = triton.cdiv(width, wide), batch, triton.cdiv(length, chunk)
    scan_forward_kernel[grid](
        *gates,
        start,
        out,
        length,
        width,
        gates[0].stride(1),
        chunk,
        kind,
        tall,
        wide,
        num_warps=warps,
    )
    return out


def scan_backward(
    gates: tuple[Tensor, Tensor, Tensor],
    grads: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    grad: Tensor,
    kind: str,
    config: tuple[int, int, int] | None = None,
    chunk: int | None = None,
) -> None:
    """Fill `grads`, laid out as the gates, from the gradient of the output."""
    batch, length, width = gates[0].shape
    tall, wide, warps = config = config or scan_config(length, width)
    chunk = chunk or scan_chunk(batch, length, width, tall, wide)
    start = scan_starts(gates, grad, (batch, length, width), kind, chunk, config)
    grid = triton.cdiv(width, wide), batch, triton.cdiv(length, chunk)
    scan_backward_kernel[grid](
        *gates,
        start,
        out,
        grad,
        *grads,
        length,
        width,
        gates[0].stride(1),
        chunk,
        kind,
        tall,
        wide,
        num_warps=warps,
    )


def gate_parts(gates: Tensor, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """The gates that lie side by side; of two the last twice."""
    parts = gates.chunk(2 if kind == "gru" else 3, -1)
    return parts[0], parts[1], parts[-1]


class LinearScan(torch.autograd.Function):
    """h of a and b [B, T, D], in their type."""

    @staticmethod
    def forward(ctx, a, b):
        a, b = a.contiguous(), b.contiguous()
        out = scan_forward((a, b, b), "plain", b.dtype)
        ctx.save_for_backward(a, b, out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        a, b, out = ctx.saved_tensors
        da, db = torch.empty_like(a), torch.empty_like(b)
        scan_backward((a, b, b), (da, db, db), out, grad.contiguous(), "plain")
        return da, db


class GatedScan(torch.autograd.Function):
    """h of gates side by side: (z | c) [B, T, 2 E] of a minGRU, (f | i | c) of a minLSTM."""

    @staticmethod
    def forward(ctx, gates, kind, dtype):
        gates = gates.contiguous()
        out = scan_forward(gate_parts(gates, kind), kind, dtype)
        ctx.save_for_backward(gates, out)
        ctx.kind = kind
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        gates, out = ctx.saved_tensors
        found = torch.empty_like(gates)
        given, wanted = gate_parts(gates, ctx.kind), gate_parts(found, ctx.kind)
        scan_backward(given, wanted, out, grad.contiguous(), ctx.kind)
        return found, None, None


SCAN_KERNELS: tuple[Callable[..., Any], ...] = (
    *SCAN_STEPS,
    *((scan_ends, scan_forward_kernel, scan_backward_kernel) if triton is not None else ()),
    scan_config,
    scan_chunk,
    scan_starts,
    scan_forward,
    scan_backward,
    gate_parts,
    LinearScan,
    GatedScan,
)
