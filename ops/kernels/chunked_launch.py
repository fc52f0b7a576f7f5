"""Launches of the chunked recurrence's kernels, and their autograd function.

Mathematics, passes and floors stand in `ops.kernels.chunked_kernel`. Block sizes are a pure
function of the shape class (`decay_config`); every launch takes another `config`, so that a sweep
can try them. Nothing here waits for the device, so that a CUDA graph can capture all of it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ops.kernels.chunked_kernel import DECAY_JIT

try:
    import triton
    import triton.language as tl
except ImportError:  # the PyTorch reference serves
    triton = None

if triton is not None:
    from ops.kernels.chunked_kernel import (
        decay_gate,
        decay_grads,
        decay_logs,
        decay_read,
        decay_scan,
        decay_sums,
    )


def decay_config(t: int, rows: int, key: int, value: int, wide: bool) -> dict[str, int]:
    """Block sizes by shape class: `rows` = batch * heads, `wide`: fp32 products.

    `span`, a multiple of `chunk`: tokens of a segment; as many segments as fill 132
    multiprocessors in one go, with two programs each, three of small heads (which 168 registers a
    thread allow), and no fewer than 256 tokens.
    On Hopper the assembler of CUDA 12 may spoil a warpgroup product whose left side was computed
    (it lies in registers): so tiles of scores have fewer than 64 rows, and fp32, whose three parts
    are all computed, has two warps; both take the older instructions. NVIDIA fixed it in CUDA 13.3.
    """
    most = max(key, value)
    chunk = 16 if t <= 16 or (wide and most > 64) else 32
    block = 32 if wide else 64
    small = most <= 64 and not wide
    parts = max(1, (396 if small else 264) // (rows * triton.cdiv(value, block)))
    span = max(256, 64 * triton.cdiv(t, 64 * parts))
    warps, stages = 2 if wide else 4 if most <= 128 else 8, 1 if wide or most > 128 else 3
    return {
        "chunk": chunk,
        "span": span if span < t else t,
        "block": block,
        "warps": warps,
        "stages": stages,
        "grads_warps": warps,
        "grads_stages": stages,
        "registers": 168 if small else 0,
        "sums_chunk": 16 if wide else 64,
        "sums_block": 32 if wide else 64,
        "sums_warps": 2 if wide else 4,
        "sums_stages": 1 if wide else 3,
    }


def decay_width(size: int) -> int:
    """The padded width of a contracted axis."""
    return max(16, 1 << (size - 1).bit_length())


def decay_like(x: Tensor, kind: torch.dtype | None = None) -> Tensor:
    """Empty [B, H, T, .] in x's order of axes: heads outside of time, or, as a layer's output,
    inside of it."""
    b, h, t, w = x.shape
    kind = x.dtype if kind is None else kind
    if x.stride(1) >= x.stride(2) * t:
        return x.new_empty(b, h, t, w, dtype=kind)
    return x.new_empty(b, t, h, w, dtype=kind).transpose(1, 2)


def decay_dot(q: Tensor, k: Tensor, v: Tensor) -> torch.dtype:
    """The type in which products are taken: autocast's, else what the three promote to."""
    if torch.is_autocast_enabled(v.device.type):
        return torch.get_autocast_dtype(v.device.type)
    return torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)


def decay_types(dot: torch.dtype) -> dict[str, object]:
    """The constants that say in which type products are taken."""
    names = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}
    return {"DOT": names[dot], "PRECISION": "tf32x3" if dot == torch.float32 else "tf32"}


def decay_limit(registers: int) -> dict[str, int]:
    """The launch option that bounds a thread's registers; 0: the compiler's choice."""
    return {"maxnreg": registers} if registers else {}


def decay_gates(g: Tensor, t: int, chunk: int) -> Tensor:
    """g as the kernels read it: a fixed decay [B, H, 1] as it is, others as logs.

    Logs are [B, H, whole chunks]; what rounding lost lies as far behind as they are long.
    """
    b, h, steps = g.shape
    if steps == 1 and t > 1:
        return g
    chunks = triton.cdiv(t, chunk)
    logs = g.new_empty(2, b, h, chunks * chunk, dtype=torch.float32)
    decay_logs[(b * h * triton.cdiv(chunks, 16),)](
        g, logs, *g.stride(), h, t, chunks, b * h * chunks * chunk, C=chunk, CHUNKS=16, num_warps=4
    )
    return logs[0]


def decay_states(
    y: Tensor,
    z: Tensor,
    g: Tensor,
    first: Tensor | None,
    gated: bool,
    reverse: bool,
    dot: torch.dtype,
    config: dict[str, int],
) -> Tensor | None:
    """[B, H, parts, K, V] fp32: the state each segment starts from (`reverse`: ends with).

    With one segment that is `first` itself.
    """
    (b, h, t, key), value = y.shape, z.shape[-1]
    span = config["span"]
    parts = triton.cdiv(t, span)
    if parts == 1:
        return first
    states = y.new_empty(b, h, parts, key, value, dtype=torch.float32)
    total = y.new_empty(b, h, parts, dtype=torch.float32)
    block = min(config["sums_block"], decay_width(value))
    decay_sums[(b * h * (parts - 1) * triton.cdiv(value, block),)](
        y, z, g, states, total, *y.stride()[:3], *z.stride()[:3], *g.stride()[:2],
        h, t, span, parts, b * h * g.shape[-1],
        KY=key, PY=decay_width(key), KZ=value, BZ=block,
        C=config["chunk" if gated else "sums_chunk"], GATED=gated,
        REVERSE=reverse, **decay_types(dot),
        num_warps=config["sums_warps"], num_stages=config["sums_stages"],
    )  # fmt: skip
    start = states if first is None else first
    decay_scan[(b * h, triton.cdiv(key * value, 512))](
        states, g, total, start, *g.stride()[:2], *start.stride()[:2], h, t, span, parts,
        SIZE=key * value, BLOCK=512, GATED=gated, REVERSE=reverse, HAS_FIRST=first is not None,
        STAGES=4, num_warps=4,
    )  # fmt: skip
    return states


def decay_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    state: Tensor | None,
    gated: bool,
    types: tuple[torch.dtype, torch.dtype],
    config: dict[str, int],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Outputs, the last state and the states at the starts of the segments.

    `types`: of the products and of the outputs.
    """
    (b, h, t, key), value, (dot, kind) = q.shape, v.shape[-1], types
    states = decay_states(k, v, g, state, gated, False, dot, config)
    o, last = decay_like(v, kind), v.new_empty(b, h, key, value, dtype=torch.float32)
    block = min(config["block"], decay_width(value))
    parts = triton.cdiv(t, config["span"])
    decay_read[(b * h * parts * triton.cdiv(value, block),)](
        q, k, v, g, o, last if states is None else states, last,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *o.stride()[:3], *g.stride()[:2],
        h, t, config["span"], parts, b * h * g.shape[-1],
        KQ=key, PQ=decay_width(key), KV=value, BV=block, C=config["chunk"], GATED=gated,
        HAS_STATE=states is not None, **decay_types(dot),
        num_warps=config["warps"], num_stages=config["stages"],
        **decay_limit(config["registers"]),
    )  # fmt: skip
    return o, last, states


def decay_backward(
    saved: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None],
    do: Tensor,
    dlast: Tensor | None,
    gated: bool,
    wants: tuple[bool, bool],
    dot: torch.dtype,
    config: dict[str, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """dq, dk, dv and, as `wants` says, dg [B, H, T] in fp32 and the first state's gradient."""
    q, k, v, g, last, states = saved
    (b, h, t, key), value = q.shape, v.shape[-1]
    span = config["span"]
    parts = triton.cdiv(t, span)
    later = decay_states(q, do, g, dlast, gated, True, dot, config)
    dq, dk, dv = decay_like(q), decay_like(k), decay_like(v)
    bk, bv = (min(config["block"], decay_width(x)) for x in (key, value))
    tiles = triton.cdiv(key, bk)
    sums = last.new_empty(b, h, 2 * tiles, t) if wants[0] else last
    dfirst = torch.empty_like(last) if wants[1] else None
    decay_grads[(b * h * parts * (2 * tiles + triton.cdiv(value, bv)),)](
        q, k, v, do, g, dq, dk, dv, sums,
        *(last if x is None else x for x in (states, later, dfirst)),
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *do.stride()[:3], *g.stride()[:2],
        *dq.stride()[:3], *dk.stride()[:3], *dv.stride()[:3],
        h, t, span, parts, b * h * g.shape[-1],
        KQ=key, PQ=decay_width(key), BK=bk, KV=value, PV=decay_width(value), BV=bv,
        C=config["chunk"], GATED=gated, HAS_STATE=states is not None,
        HAS_LATER=later is not None, DOTS=wants[0], STORE_FIRST=wants[1], **decay_types(dot),
        num_warps=config["grads_warps"], num_stages=config["grads_stages"],
        **decay_limit(config["registers"]),
    )  # fmt: skip
    dg = None
    if wants[0]:
        dg = last.new_empty(b, h, t)
        decay_gate[(b * h * parts,)](
            sums, *(last if x is None else x for x in (states, later)), last,
            last if dlast is None else dlast, dg, t, span, parts, 2 * tiles,
            SIZE=key * value, BLOCK=1024, C=256, HAS_LAST=dlast is not None, num_warps=4,
        )  # fmt: skip
    return dq, dk, dv, dg, dfirst


class DecayTriton(torch.autograd.Function):
    """(o, last state) of q, k [B, H, T, K], v [B, H, T, V], g [B, H, T or 1], state or None."""

    @staticmethod
    def forward(ctx, q, k, v, g, state, types, config):  # type: ignore[no-untyped-def]  # torch's context has no type
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        gated = g.shape[-1] > 1 or q.shape[2] == 1
        if state is not None:
            state = state.float().contiguous()
        assert config["span"] % config["chunk"] == 0 or config["span"] >= q.shape[2]
        g = decay_gates(g, q.shape[2], config["chunk"])
        o, last, states = decay_forward(q, k, v, g, state, gated, types, config)
        ctx.save_for_backward(q, k, v, g, last, states)
        ctx.gated, ctx.dot, ctx.config = gated, types[0], config
        ctx.set_materialize_grads(False)
        return o, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, do, dlast):  # type: ignore[no-untyped-def]  # torch's context has no type
        q, k, v, g, last, states = ctx.saved_tensors
        do = torch.zeros_like(v) if do is None else do.to(ctx.dot)
        do = do if do.stride(-1) == 1 else do.contiguous()
        if dlast is not None:
            dlast = dlast.float().contiguous()
        wants = (ctx.needs_input_grad[3], ctx.needs_input_grad[4])
        dq, dk, dv, dg, dstate = decay_backward(
            (q, k, v, g, last, states), do, dlast, ctx.gated, wants, ctx.dot, ctx.config
        )
        return dq, dk, dv, dg, dstate, None, None


def decay_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    state: Tensor | None = None,
    config: dict[str, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """What `chunked_decay` computes, on the kernels; under autocast with products in its type."""
    b, h, t, value = v.shape
    key = k.shape[-1]
    dot, kind = decay_dot(q, k, v), v.dtype
    q, k, v = q.to(dot), k.to(dot), v.to(dot)
    g = g.reshape(*(1,) * (3 - g.dim()), *g.shape)
    fixed = (g.shape[-1] == 1 or g.stride(-1) == 0) and not g.requires_grad
    g = g[..., :1].expand(b, h, 1) if fixed else g.expand(b, h, t)
    q, k = q.expand(b, h, t, key), k.expand(b, h, t, key)
    if config is None:
        config = decay_config(t, b * h, key, value, dot == torch.float32)
    parts = (q, k, v, g, state, (dot, kind), config)
    o, last = DecayTriton.apply(*parts)  # type: ignore[no-untyped-call]  # torch gives no type
    return o, last


DECAY_KERNELS: tuple[Callable[..., Any], ...] = (
    *DECAY_JIT,
    decay_config,
    decay_width,
    decay_like,
    decay_dot,
    decay_types,
    decay_limit,
    decay_gates,
    decay_states,
    decay_forward,
    decay_backward,
    DecayTriton,
    decay_triton,
)
