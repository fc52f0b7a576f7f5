"""The recurrence h_t = relu(w_t + u h_{t-1}) on a GPU, one pass over memory each way.

Maps h -> clamp(a h + b, low, high) are closed under composition. Inside a tile their scan tells
which steps are on; with that pattern the recurrence is linear, and its scan gives the value.
Between tiles the last row. Backward, with e_t the gradient of h_t and on_t = [h_t > 0]:
    q_t = e_t + u on_{t+1} q_{t+1},   dw_t = on_t q_t,   du = sum_{b,t} on_t q_t h_{t-1}

Shapes: w and h [B, T, D], u [D], h_0 = 0; fp32 inside, what passes 1e30 is cut there while the
pattern is sought. Gradients of u are summed in two stages in a fixed order. Kept: h and u.
Floor in bytes an element, bf16: forward 2 + 2, backward 4 + 2.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"
# (what a kernel takes are pointers and numbers of the device: Python has no types for them)

from collections.abc import Callable
from typing import Any

import torch

from ops.kernels.rows_norm_kernel import SUM_LINES, lines_summed

try:
    import triton
    import triton.language as tl
except ImportError:  # the PyTorch reference serves
    triton = None

if triton is not None:
    from ops.kernels.scan_step_kernel import scan_join

    @triton.jit
    def relu_join(a, b, low, high, c, d, low2, high2):
        """Two clamped maps as one, no number beyond 1e30."""
        start = tl.minimum(tl.maximum(c * low + d, low2), high2)
        end = tl.minimum(tl.maximum(c * high + d, low2), high2)
        slope = tl.minimum(tl.maximum(a * c, -1e30), 1e30)
        shift = tl.minimum(tl.maximum(c * b + d, -1e30), 1e30)
        return slope, shift, tl.minimum(start, end), tl.maximum(start, end)

    @triton.jit(do_not_specialize=["length", "width"])
    def relu_forward_kernel(u, w, out, length, width, TALL: tl.constexpr, WIDE: tl.constexpr):
        col = tl.program_id(0) * WIDE + tl.arange(0, WIDE)
        batch, inner = tl.program_id(1).to(tl.int64), tl.arange(0, TALL)
        past = tl.load(u + col, mask=col < width, other=0.0).to(tl.float32)
        state = tl.zeros([WIDE], tl.float32)
        for begin in range(0, length, TALL):
            time = begin + inner
            keep = (time < length)[:, None] & (col < width)[None, :]
            at = (batch * length + time)[:, None] * width + col[None, :]
            x = tl.load(w + at, mask=keep, other=0.0).to(tl.float32)
            slope = tl.zeros([TALL, WIDE], tl.float32) + past[None, :]
            low = tl.zeros([TALL, WIDE], tl.float32)
            a, b, low, high = tl.associative_scan((slope, x, low, low + 1e30), 0, relu_join)
            guess = tl.minimum(tl.maximum(a * state[None, :] + b, low), high)
            a, b = tl.where(guess > 0.0, slope, 0.0), tl.where(guess > 0.0, x, 0.0)
            a, b = tl.associative_scan((a, b), 0, scan_join)
            h = tl.maximum(b + a * state[None, :], 0.0)
            state = tl.sum(tl.where((inner == TALL - 1)[:, None], h, 0.0), 0)
            tl.store(out + at, h.to(out.dtype.element_ty), mask=keep)

    @triton.jit(do_not_specialize=["length", "width"])
    def relu_backward_kernel(
        u, out, grad, dw, parts, length, width, TALL: tl.constexpr, WIDE: tl.constexpr
    ):
        col = tl.program_id(0) * WIDE + tl.arange(0, WIDE)
        batch, inner = tl.program_id(1).to(tl.int64), tl.arange(0, TALL)
        past = tl.load(u + col, mask=col < width, other=0.0).to(tl.float32)
        state = tl.zeros([WIDE], tl.float32)
        total = tl.zeros([TALL, WIDE], tl.float32)
        tiles = tl.cdiv(length, TALL)
        for i in range(0, tiles):
            time = (tiles - i) * TALL - 1 - inner  # latest first
            keep = (time < length)[:, None] & (col < width)[None, :]
            at = (batch * length + time)[:, None] * width + col[None, :]
            e = tl.load(grad + at, mask=keep, other=0.0).to(tl.float32)
            after = keep & (time + 1 < length)[:, None]
            later = tl.load(out + at + width, mask=after, other=0.0)
            a = tl.where(later > 0, past[None, :], 0.0)
            a, e = tl.associative_scan((a, e), 0, scan_join)
            q = e + a * state[None, :]
            state = tl.sum(tl.where((inner == TALL - 1)[:, None], q, 0.0), 0)
            now = tl.load(out + at, mask=keep, other=0.0)
            before = tl.load(out + at - width, mask=keep & (time > 0)[:, None], other=0.0)
            q = tl.where(now > 0, q, 0.0)
            total += q * before.to(tl.float32)
            tl.store(dw + at, q.to(dw.dtype.element_ty), mask=keep)
        tl.store(parts + batch * width + col, tl.sum(total, 0), mask=col < width)


def relu_config(length: int) -> tuple[int, int, int]:
    """(rows and columns of a tile, warps)."""
    return max(16, min(64, triton.next_power_of_2(length))), 32, 4


class ReluScan(torch.autograd.Function):
    """h [B, T, D] of u [D] and w [B, T, D], in the type of w."""

    @staticmethod
    def forward(ctx, u, w):
        w = w.contiguous()
        batch, length, width = w.shape
        tall, wide, warps = relu_config(length)
        out = torch.empty_like(w)
        relu_forward_kernel[(triton.cdiv(width, wide), batch)](
            u, w, out, length, width, tall, wide, num_warps=warps
        )
        ctx.save_for_backward(u, out)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        u, out = ctx.saved_tensors
        batch, length, width = out.shape
        tall, wide, warps = relu_config(length)
        dw = torch.empty_like(out)
        parts = out.new_empty(batch, width, dtype=torch.float32)
        relu_backward_kernel[(triton.cdiv(width, wide), batch)](
            u, out, grad.contiguous(), dw, parts, length, width, tall, wide, num_warps=warps
        )
        return lines_summed(parts).to(u.dtype), dw


RELU_KERNELS: tuple[Callable[..., Any], ...] = (
    *(
        (scan_join, relu_join, relu_forward_kernel, relu_backward_kernel)
        if triton is not None
        else ()
    ),
    *SUM_LINES,
    relu_config,
    ReluScan,
)
