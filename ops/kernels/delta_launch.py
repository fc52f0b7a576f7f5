"""Launches of the delta rule's kernels, and their autograd function.

Mathematics, passes and floors stand in `ops.kernels.delta_kernel`. Nothing here waits for the
device.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ops.kernels.chunked_launch import decay_dot, decay_gates, decay_like, decay_types, decay_width
from ops.kernels.delta_kernel import DELTA_JIT

try:
    import triton
except ImportError:  # the PyTorch reference serves
    triton = None

if triton is not None:
    from ops.kernels.delta_kernel import delta_back, delta_grads, delta_scan, delta_walk
    from ops.kernels.delta_solve_kernel import delta_solve


def delta_config(t: int, rows: int, key: int, value: int) -> dict[str, int]:
    """Block sizes by shape class: `rows` = batch * heads.

    `span`, a multiple of 64: tokens of a segment. Segments double the work of the walks, so there
    are some only where rows and tiles of V leave most of 132 multiprocessors idle.
    """
    programs, large = rows * triton.cdiv(value, 32), key > 64
    parts = 1 if programs > 80 or key > 128 else 264 // programs
    return {
        "span": max(512, 64 * triton.cdiv(t, 64 * parts)),
        "block": 32,
        "warps": 8 if large else 4,
        "stages": 1 if large else 2,
        "back_block": 32,
        "back_warps": 8 if large else 4,
        "back_stages": 1 if large else 2,
        "grads_block": 32 if key > 128 else 64,
        "grads_warps": 8 if large else 4,
        "grads_stages": 1,
        "solve_warps": 2,
    }


def delta_served(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """16-bit products, K and V up to 256 (in fp32 the tiles of 64 tokens would not fit)."""
    most = max(k.shape[-1], v.shape[-1])
    return decay_dot(q, k, v) != torch.float32 and most <= 256


def delta_solved(
    k: Tensor, beta: Tensor, g: Tensor, gated: bool, dot: torch.dtype, config: dict[str, int]
) -> Tensor:
    """T of every chunk, [B, H, chunks, 64, 64]; what stands above the diagonal is undefined."""
    b, h, t, key = k.shape
    chunks = triton.cdiv(t, 64)
    solved = k.new_empty(b, h, chunks, 64, 64, dtype=dot)
    delta_solve[(b * h * chunks,)](
        k, beta, g, solved, *k.stride()[:3], *beta.stride(), *g.stride()[:2],
        h, t, chunks, b * h * g.shape[-1],
        KQ=key, P=decay_width(key), GATED=gated, **decay_types(dot),
        num_warps=config["solve_warps"],
    )  # fmt: skip
    return solved


def delta_forward(
    parts: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    state: Tensor | None,
    gated: bool,
    keep: bool,
    types: tuple[torch.dtype, torch.dtype],
    config: dict[str, int],
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Outputs, the last state and, as `keep` says, what backward needs: T, F, states and M.

    `types`: of the products and of the outputs.
    """
    (q, k, v, beta, g), (dot, kind) = parts, types
    (b, h, t, key), value = q.shape, v.shape[-1]
    chunks, run = triton.cdiv(t, 64), config["span"] // 64
    count = triton.cdiv(chunks, run)
    solved = delta_solved(k, beta, g, gated, dot, config)
    o, last = decay_like(v, kind), v.new_empty(b, h, key, value, dtype=torch.float32)
    fresh = v.new_empty(b, h, t, value, dtype=dot) if keep else solved
    states = v.new_empty(b, h, chunks, key, value, dtype=dot) if keep else solved
    block = min(config["block"], decay_width(value))
    tiles = triton.cdiv(value, block)
    sizes = {"KQ": key, "PQ": decay_width(key), "KV": value, "BV": block}
    strides = (
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *beta.stride(), *g.stride()[:2],
        *o.stride()[:3], h, t, chunks, b * h * g.shape[-1], run, count,
    )  # fmt: skip
    options = {
        **sizes, **decay_types(dot), "GATED": gated, "num_warps": config["warps"],
        "num_stages": config["stages"],
    }  # fmt: skip
    starts, moves = state, last
    if count > 1:
        starts = v.new_empty(b, h, count, key, value, dtype=torch.float32)
        moves = v.new_empty(b, h, count, key, key, dtype=torch.float32)
        delta_walk[(b * h * count * (tiles + triton.cdiv(key, block)),)](
            q, k, v, beta, g, solved, o, fresh, states, last, starts, moves, *strides,
            HAS_FIRST=False, KEEP=False, PROBE=True, **options,
        )  # fmt: skip
        delta_scan[(b * h * tiles,)](
            starts, moves, last if state is None else state, count, REVERSE=False,
            HAS_FIRST=state is not None, **sizes, BK=min(32, decay_width(key)), num_warps=2,
        )  # fmt: skip
    delta_walk[(b * h * count * tiles,)](
        q, k, v, beta, g, solved, o, fresh, states, last if starts is None else starts, last, last,
        *strides, HAS_FIRST=starts is not None, KEEP=keep, PROBE=False, **options,
    )  # fmt: skip
    return o, last, (solved, fresh, states, moves) if keep else ()


def delta_later(
    parts: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    kept: tuple[Tensor, ...],
    do: Tensor,
    dlast: Tensor | None,
    gated: bool,
    wants_first: bool,
    dot: torch.dtype,
    config: dict[str, int],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """dR, the gradient of the state after each chunk, and that of the first state."""
    (q, k, v, beta, g), (solved, fresh, states, moves) = parts, kept
    (b, h, t, key), value = q.shape, v.shape[-1]
    chunks, run = triton.cdiv(t, 64), config["span"] // 64
    count = triton.cdiv(chunks, run)
    right, later = fresh.new_empty(fresh.shape), states.new_empty(states.shape)
    first = v.new_empty(b, h, key, value, dtype=torch.float32) if wants_first else None
    block = min(config["back_block"], decay_width(value))
    tiles = triton.cdiv(value, block)
    sizes = {"KQ": key, "PQ": decay_width(key), "KV": value, "BV": block}
    strides = (
        *q.stride()[:3], *k.stride()[:3], *beta.stride(), *g.stride()[:2], *do.stride()[:3],
        h, t, chunks, b * h * g.shape[-1], run, count,
    )  # fmt: skip
    options = {
        **sizes, **decay_types(dot), "GATED": gated, "num_warps": config["back_warps"],
        "num_stages": config["back_stages"],
    }  # fmt: skip
    ends = dlast
    if count > 1:
        ends = v.new_empty(b, h, count, key, value, dtype=torch.float32)
        delta_back[(b * h * (count - 1) * tiles,)](
            q, k, beta, g, solved, do, right, later, ends, ends, *strides,
            HAS_LAST=False, STORE_FIRST=False, PROBE=True, **options,
        )  # fmt: skip
        delta_scan[(b * h * tiles,)](
            ends, moves, ends if dlast is None else dlast, count, REVERSE=True,
            HAS_FIRST=dlast is not None, **sizes, BK=min(32, decay_width(key)), num_warps=2,
        )  # fmt: skip
    delta_back[(b * h * count * tiles,)](
        q, k, beta, g, solved, do, right, later,
        *(solved if x is None else x for x in (ends, first)), *strides,
        HAS_LAST=ends is not None, STORE_FIRST=wants_first, PROBE=False, **options,
    )  # fmt: skip
    return right, later, first


def delta_backward(
    parts: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    kept: tuple[Tensor, ...],
    do: Tensor,
    dlast: Tensor | None,
    gated: bool,
    wants: tuple[bool, bool],
    dot: torch.dtype,
    config: dict[str, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """dq, dk, dv, db and, as `wants` says, dg and the first state's gradient."""
    (q, k, v, beta, g), (_, fresh, states, _) = parts, kept
    (b, h, t, key), value = q.shape, v.shape[-1]
    chunks = triton.cdiv(t, 64)
    right, later, first = delta_later(parts, kept, do, dlast, gated, wants[1], dot, config)
    dq, dk, dv = decay_like(q), decay_like(k), decay_like(v)
    db = v.new_empty(b, h, t, dtype=torch.float32)
    scratch = v.new_empty(b, h, chunks, 2, 64, 64, dtype=dot)
    dg = v.new_empty(b, h, t, dtype=torch.float32) if wants[0] else None
    delta_grads[(b * h * chunks,)](
        q, k, v, beta, g, do, fresh, right, states, later, scratch, dq, dk, dv, db,
        db if dg is None else dg,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *beta.stride(), *g.stride()[:2],
        *do.stride()[:3], *dq.stride()[:3], *dk.stride()[:3], *dv.stride()[:3],
        h, t, chunks, b * h * g.shape[-1], KQ=key, PQ=decay_width(key), KV=value,
        BV=min(config["grads_block"], decay_width(value)), GATED=gated, HAS_GATE=wants[0],
        **decay_types(dot), num_warps=config["grads_warps"], num_stages=config["grads_stages"],
    )  # fmt: skip
    return dq, dk, dv, db, dg, first


class DeltaTriton(torch.autograd.Function):
    """(o, last state) of q, k [B, H, T, K], v [B, H, T, V], b [B, H, T], g [B, H, T or 1]."""

    @staticmethod
    def forward(ctx, q, k, v, beta, g, state, types, keep, config):  # type: ignore[no-untyped-def]  # torch's context has no type
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        gated = g.shape[-1] > 1 or q.shape[2] == 1
        if state is not None:
            state = state.float().contiguous()
        g = decay_gates(g, q.shape[2], 64)
        parts = (q, k, v, beta, g)
        o, last, kept = delta_forward(parts, state, gated, keep, types, config)
        ctx.save_for_backward(*parts, *kept)
        ctx.gated, ctx.dot, ctx.config = gated, types[0], config
        ctx.set_materialize_grads(False)
        return o, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, do, dlast):  # type: ignore[no-untyped-def]  # torch's context has no type
        parts, kept = ctx.saved_tensors[:5], ctx.saved_tensors[5:]
        do = torch.zeros_like(parts[2]) if do is None else do.to(ctx.dot)
        do = do if do.stride(-1) == 1 else do.contiguous()
        dlast = None if dlast is None else dlast.float().contiguous()
        wants = (ctx.needs_input_grad[4], ctx.needs_input_grad[5])
        grads = delta_backward(parts, kept, do, dlast, ctx.gated, wants, ctx.dot, ctx.config)
        return (*grads, None, None, None)


def delta_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor,
    state: Tensor | None = None,
    config: dict[str, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """What `chunked_delta` computes, on the kernels; under autocast with products in its type."""
    b, h, t, value = v.shape
    key = k.shape[-1]
    dot, kind = decay_dot(q, k, v), v.dtype
    q, k, v = q.to(dot), k.to(dot), v.to(dot)
    beta = beta.expand(b, h, t)
    g = g.reshape(*(1,) * (3 - g.dim()), *g.shape)
    fixed = (g.shape[-1] == 1 or g.stride(-1) == 0) and not g.requires_grad
    g = g[..., :1].expand(b, h, 1) if fixed else g.expand(b, h, t)
    q, k = q.expand(b, h, t, key), k.expand(b, h, t, key)
    if config is None:
        config = delta_config(t, b * h, key, value)
    tensors = (q, k, v, beta, g, state)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    parts = (*tensors, (dot, kind), keep, config)
    o, last = DeltaTriton.apply(*parts)  # type: ignore[no-untyped-call]  # torch gives no type
    return o, last


DELTA_KERNELS: tuple[Callable[..., Any], ...] = (
    *DELTA_JIT,
    decay_width,
    decay_like,
    decay_dot,
    decay_types,
    decay_gates,
    delta_config,
    delta_served,
    delta_solved,
    delta_forward,
    delta_later,
    delta_backward,
    DeltaTriton,
    delta_triton,
)
