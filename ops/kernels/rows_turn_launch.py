"""Launches of the kernels that norm and turn queries and keys, and their autograd functions.

Mathematics, shapes and floors stand in `ops.kernels.rows_turn_kernel`.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"
# (the context of an autograd function has no type in torch)

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ops.kernels.rows_norm_kernel import SUM_LINES, lines_summed
from ops.kernels.rows_turn_kernel import TURN_JIT

try:
    import triton
except ImportError:  # the PyTorch reference serves
    triton = None

if triton is not None:
    from ops.kernels.rows_turn_kernel import turn_rows_backward, turn_rows_forward


def turn_config(heads: int, half: int) -> tuple[int, int, int]:
    """(tokens and heads of a tile, warps) for K = 2 half."""
    size = triton.next_power_of_2(half)
    few = min(triton.next_power_of_2(heads), max(1, 256 // size))
    return max(1, 1024 // (size * few)), few, 4


def turn_forward(
    q: Tensor,
    kv: Tensor | None,
    place: Tensor,
    gains: tuple[Tensor | None, Tensor | None],
    eps: float,
    turn: bool,
    config: tuple[int, int, int] | None = None,
) -> tuple:  # type: ignore[type-arg]  # of tensors, None where there is none
    """q' [B, T, H, K] and k' [B, S, G, K] of q [B, T, H, K] and kv [B, S, 2, G, K];
    None where there is no kv."""
    batch, length, heads, width = q.shape
    others, groups = (0, 0) if kv is None else (kv.shape[1], kv.shape[3])
    span, few, warps = config or turn_config(heads, width // 2)
    out_q = q.new_empty(q.shape)
    out_k = None if kv is None else kv.new_empty(batch, others, groups, width)
    grid = (
        triton.cdiv(max(length, others), span),
        triton.cdiv(heads, few) + triton.cdiv(groups, few),
        batch,
    )
    turn_rows_forward[grid](
        q,
        q if kv is None else kv,
        out_q,
        out_q if out_k is None else out_k,
        place,
        *gains,
        length,
        others,
        heads,
        groups,
        *q.stride()[:3],
        eps,
        turn,
        width // 2,
        triton.next_power_of_2(width // 2),
        span,
        few,
        num_warps=warps,
    )
    return out_q, out_k


def turn_backward(
    grads: tuple[Tensor, Tensor | None, Tensor | None],
    q: Tensor,
    kv: Tensor | None,
    place: Tensor,
    gains: tuple[Tensor | None, Tensor | None],
    eps: float,
    turn: bool,
    config: tuple[int, int, int] | None = None,
) -> tuple:  # type: ignore[type-arg]  # of tensors, None where there is none
    """Gradients of q, kv and the gains; `grads` are those of q', k' and v, [B, T, heads, K]."""
    batch, length, heads, width = q.shape
    others, groups = (0, 0) if kv is None else (kv.shape[1], kv.shape[3])
    span, few, warps = config or turn_config(heads, width // 2)
    dq = q.new_empty(q.shape)
    dkv = None if kv is None else torch.empty_like(kv)
    dy = [grads[0] if g is None else g if g.stride(-1) == 1 else g.contiguous() for g in grads]
    tiles = triton.cdiv(max(length, others), span)
    blocks, more = triton.cdiv(heads, few), triton.cdiv(groups, few)
    parts = [
        None if gain is None else gain.new_zeros(batch * tiles * n, width, dtype=torch.float32)
        for gain, n in zip(gains, (blocks, more), strict=True)
    ]
    turn_rows_backward[(tiles, blocks + 2 * more, batch)](
        *dy,
        q,
        q if kv is None else kv,
        dq,
        dq if dkv is None else dkv,
        place,
        *gains,
        *parts,
        length,
        others,
        heads,
        groups,
        *dy[0].stride()[:3],
        *dy[1].stride()[:3],
        *dy[2].stride()[:3],
        *q.stride()[:3],
        eps,
        turn,
        width // 2,
        triton.next_power_of_2(width // 2),
        span,
        few,
        num_warps=warps,
    )
    dgains = [
        None if p is None or gain is None else lines_summed(p).to(gain.dtype)
        for p, gain in zip(parts, gains, strict=True)
    ]
    return dq, dkv, *dgains


class TurnRows(torch.autograd.Function):
    """Of q [B, H, T, K] alone: q' [B, H, T, K]."""

    @staticmethod
    def forward(ctx, q, place):
        q = q if q.stride(-1) == 1 else q.contiguous()
        ctx.save_for_backward(q, place)
        y, _ = turn_forward(q.transpose(1, 2), None, place, (None, None), 0.0, True)
        return y.transpose(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        q, place = ctx.saved_tensors
        grads = dy.transpose(1, 2), None, None
        dq, *_ = turn_backward(grads, q.transpose(1, 2), None, place, (None, None), 0.0, True)
        return dq.transpose(1, 2), None


class MeetRows(torch.autograd.Function):
    """q' [B, H, T, K], k' and v [B, G, S, K] of q [B, T, H K] and kv [B, S, 2 G K]."""

    @staticmethod
    def forward(ctx, q, kv, place, gain_q, gain_k, width, eps, turn):
        q = q.contiguous().unflatten(-1, (-1, width))
        kv = kv.contiguous().unflatten(-1, (2, -1, width))
        ctx.save_for_backward(q, kv, place, gain_q, gain_k)
        ctx.eps, ctx.turn = eps, turn
        out_q, out_k = turn_forward(q, kv, place, (gain_q, gain_k), eps, turn)
        return out_q.transpose(1, 2), out_k.transpose(1, 2), kv[:, :, 1].transpose(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):
        q, kv, place, *gains = ctx.saved_tensors
        grads = tuple(g.transpose(1, 2) for g in grads)
        dq, dkv, *dgains = turn_backward(grads, q, kv, place, tuple(gains), ctx.eps, ctx.turn)
        return dq.flatten(2), dkv.flatten(2), None, *dgains, None, None, None


TURN_KERNELS: tuple[Callable[..., Any], ...] = (
    *TURN_JIT,
    *SUM_LINES,
    turn_config,
    turn_forward,
    turn_backward,
    TurnRows,
    MeetRows,
)
