"""Launches of the kernels with a decay for every key channel, and their autograd function.

Mathematics and floors stand in `ops.kernels.diagonal_kernel`, passes in
`ops.kernels.chunked_kernel`. Nothing here waits for the device.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ops.kernels.chunked_launch import decay_dot, decay_like, decay_limit, decay_width
from ops.kernels.diagonal_kernel import DIAGONAL_JIT

try:
    import triton
    import triton.language as tl
except ImportError:  # the PyTorch reference serves
    triton = None

if triton is not None:
    from ops.kernels.diagonal_kernel import (
        diagonal_gate,
        diagonal_grads,
        diagonal_read,
        diagonal_scan,
        diagonal_sums,
    )


def diagonal_config(t: int, rows: int, key: int, value: int, wide: bool) -> dict[str, int]:
    """Block sizes by shape class: `rows` = batch * heads, `wide`: fp32 products.

    Spans as in `decay_config`; chunks too, for the sake of the same assembler.
    """
    most = max(key, value)
    chunk = 16 if t <= 16 or most > 128 or wide else 32
    block = 32 if wide else 64
    parts = max(1, 264 // (rows * triton.cdiv(value, block)))
    span = max(256, 64 * triton.cdiv(t, 64 * parts))
    warps = 2 if wide else 4 if most <= 64 else 8
    return {
        "chunk": chunk,
        "span": span if span < t else t,
        "block": block,
        "warps": warps,
        "stages": 1,
        "grads_warps": warps,
        "grads_stages": 1,
        "registers": 0,
        "sums_chunk": 16 if wide else 64,
        "sums_block": block,
        "sums_warps": 2 if wide else 4,
        "sums_stages": 1 if wide else 2,
        "gate_block": 32,
    }


def diagonal_types(dot: torch.dtype) -> dict[str, object]:
    """The constants that say in which type products are taken.

    Scaled keys and queries reach e^40: beyond fp16, which takes tf32 with the same 10 bits.
    """
    if dot == torch.bfloat16:
        return {"DOT": tl.bfloat16, "PRECISION": "tf32"}
    return {"DOT": tl.float32, "PRECISION": "tf32" if dot == torch.float16 else "tf32x3"}


def diagonal_states(
    y: Tensor,
    z: Tensor,
    g: Tensor,
    first: Tensor | None,
    reverse: bool,
    dot: torch.dtype,
    config: dict[str, int],
) -> Tensor | None:
    """[B, H, parts, K, V] fp32: the state each segment starts from (`reverse`: ends with)."""
    (b, h, t, key), value = y.shape, z.shape[-1]
    span = config["span"]
    parts = triton.cdiv(t, span)
    if parts == 1:
        return first
    states = y.new_empty(b, h, parts, key, value, dtype=torch.float32)
    total = y.new_empty(b, h, parts, key, dtype=torch.float32)
    bk, bz = (min(config["sums_block"], decay_width(x)) for x in (key, value))
    jobs = b * h * (parts - 1) * triton.cdiv(key, bk) * triton.cdiv(value, bz)
    diagonal_sums[(jobs,)](
        y, z, g, states, total, *y.stride()[:3], *z.stride()[:3], *g.stride()[:3],
        h, t, span, parts, K=key, BK=bk, KZ=value, BZ=bz, C=config["sums_chunk"], REVERSE=reverse,
        **diagonal_types(dot), num_warps=config["sums_warps"], num_stages=config["sums_stages"],
    )  # fmt: skip
    diagonal_scan[(b * h, triton.cdiv(key * value, 512))](
        states, total, states if first is None else first, parts, SIZE=key * value, K=key,
        KZ=value, BLOCK=512, REVERSE=reverse, HAS_FIRST=first is not None, STAGES=4, num_warps=4,
    )  # fmt: skip
    return states


def diagonal_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    state: Tensor | None,
    types: tuple[torch.dtype, torch.dtype],
    config: dict[str, int],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Outputs, the last state and the states at the starts of the segments.

    `types`: of the products and of the outputs.
    """
    (b, h, t, key), value, (dot, kind) = q.shape, v.shape[-1], types
    states = diagonal_states(k, v, g, state, False, dot, config)
    o, last = decay_like(v, kind), v.new_empty(b, h, key, value, dtype=torch.float32)
    block = min(config["block"], decay_width(value))
    parts, chunk = triton.cdiv(t, config["span"]), config["chunk"]
    diagonal_read[(b * h * parts * triton.cdiv(value, block),)](
        q, k, v, g, o, last if states is None else states, last,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *g.stride()[:3], *o.stride()[:3],
        h, t, config["span"], parts, KQ=key, PQ=decay_width(key), KV=value, BV=block, C=chunk,
        HAS_STATE=states is not None, BOUND=80.0, **diagonal_types(dot),
        num_warps=config["warps"], num_stages=config["stages"], **decay_limit(config["registers"]),
    )  # fmt: skip
    return o, last, states


def diagonal_backward(
    saved: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None],
    do: Tensor,
    dlast: Tensor | None,
    wants: tuple[bool, bool],
    dot: torch.dtype,
    config: dict[str, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """dq, dk, dv and, as `wants` says, dg in fp32 and the first state's gradient."""
    q, k, v, g, last, states = saved
    (b, h, t, key), value = q.shape, v.shape[-1]
    span, chunk = config["span"], config["chunk"]
    parts = triton.cdiv(t, span)
    later = diagonal_states(q, do, g, dlast, True, dot, config)
    dq, dk, dv = decay_like(q), decay_like(k), decay_like(v)
    bk, bv = (min(config["block"], decay_width(x)) for x in (key, value))
    dots = last.new_empty(b, h, 2, t, key) if wants[0] else last
    dfirst = last.new_empty(last.shape) if wants[1] else None
    jobs = b * h * parts * (2 * triton.cdiv(key, bk) + triton.cdiv(value, bv))
    diagonal_grads[(jobs,)](
        q, k, v, do, g, dq, dk, dv, dots,
        *(last if x is None else x for x in (states, later, dfirst)),
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *do.stride()[:3], *g.stride()[:3],
        *dq.stride()[:3], *dk.stride()[:3], *dv.stride()[:3], h, t, span, parts,
        KQ=key, PQ=decay_width(key), BK=bk, KV=value, PV=decay_width(value), BV=bv, C=chunk,
        HAS_STATE=states is not None, HAS_LATER=later is not None,
        HAS_DOTS=wants[0], STORE_FIRST=wants[1], BOUND=80.0, **diagonal_types(dot),
        num_warps=config["grads_warps"], num_stages=config["grads_stages"],
        **decay_limit(config["registers"]),
    )  # fmt: skip
    dg = None
    if wants[0]:
        dg = last.new_empty(b, h, t, key)
        block = min(config["gate_block"], decay_width(key))
        diagonal_gate[(b * h * parts * triton.cdiv(key, block),)](
            dots, *(last if x is None else x for x in (states, later)), last,
            last if dlast is None else dlast, dg, t, span, parts, K=key, BK=block, KV=value,
            BV=64, C=64, HAS_LAST=dlast is not None, num_warps=4,
        )  # fmt: skip
    return dq, dk, dv, dg, dfirst


class DiagonalTriton(torch.autograd.Function):
    """(o, last state) of q, k, g [B, H, T, K], v [B, H, T, V], state or None."""

    @staticmethod
    def forward(ctx, q, k, v, g, state, types, config):  # type: ignore[no-untyped-def]  # torch's context has no type
        q, k, v, g = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v, g))
        if state is not None:
            state = state.float().contiguous()
        o, last, states = diagonal_forward(q, k, v, g, state, types, config)
        ctx.save_for_backward(q, k, v, g, last, states)
        ctx.dot, ctx.config = types[0], config
        ctx.set_materialize_grads(False)
        return o, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, do, dlast):  # type: ignore[no-untyped-def]  # torch's context has no type
        saved = ctx.saved_tensors
        do = torch.zeros_like(saved[2]) if do is None else do.to(saved[2].dtype)
        do = do if do.stride(-1) == 1 else do.contiguous()
        dlast = None if dlast is None else dlast.float().contiguous()
        wants = (ctx.needs_input_grad[3], ctx.needs_input_grad[4])
        grads = diagonal_backward(saved, do, dlast, wants, ctx.dot, ctx.config)
        return (*grads, None, None)


def diagonal_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    state: Tensor | None = None,
    config: dict[str, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """What `chunked_diagonal` computes without a bonus; under autocast in its type."""
    b, h, t, value = v.shape
    dot, kind = decay_dot(q, k, v), v.dtype
    load = torch.bfloat16 if dot == torch.bfloat16 else torch.float32
    q, k, v = q.to(load), k.to(load), v.to(load)
    q, k, g = (x.expand(b, h, t, k.shape[-1]) for x in (q, k, g))
    if config is None:
        config = diagonal_config(t, b * h, k.shape[-1], value, dot != torch.bfloat16)
    parts = (q, k, v, g, state, (dot, kind), config)
    o, last = DiagonalTriton.apply(*parts)  # type: ignore[no-untyped-call]  # torch gives no type
    return o, last


DIAGONAL_KERNELS: tuple[Callable[..., Any], ...] = (
    *DIAGONAL_JIT,
    decay_dot,
    decay_width,
    decay_like,
    decay_limit,
    diagonal_config,
    diagonal_types,
    diagonal_states,
    diagonal_forward,
    diagonal_backward,
    DiagonalTriton,
    diagonal_triton,
)
