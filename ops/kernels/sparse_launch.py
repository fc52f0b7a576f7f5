"""Launches of the sparse attention kernels, and their autograd function.

Mathematics and floors stand in `ops.kernels.sparse_kernel` and `sparse_backward_kernel`. Tile sizes
are a pure function of the shape class (`sparse_config`); every launch takes another config, so that
a sweep can try them. Nothing here waits for the device, so that a CUDA graph can capture all of it.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, type-arg, no-any-return"
# (patterns come from above, and the parts of a launch are of many types)

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ops.kernels.sparse_backward_kernel import SPARSE_BACKWARD_JIT
from ops.kernels.sparse_kernel import SPARSE_FORWARD_JIT

try:
    import triton
    import triton.tools.tensor_descriptor
except ImportError:  # the PyTorch reference serves
    triton = None

if triton is not None:
    from ops.kernels.sparse_backward_kernel import sparse_far_keys, sparse_keys, sparse_queries
    from ops.kernels.sparse_kernel import sparse_forward


def sparse_config(part: str, width: int, dtype: torch.dtype, short: bool) -> tuple:
    """(M, N, warps, stages, loops, descriptors) of a part: "forward", "queries", "keys"; after
    these, where not usual, (registers of a thread, TURNED, queries of a far chunk).

    M queries and N keys a tile; `short`: a query sees few tiles (windows).
    """
    if dtype == torch.float32:
        if width > 128:
            return 32, 16, 4, 1, "masked", False
        loops, warps = ("branch", 4) if width <= 64 else ("masked", 8)
        if part == "keys":
            return 32, 64, warps, 1, loops, False
        return 64, 32, warps, 2 if width <= 64 else 1, loops, False
    if width > 128:
        return 32 if part == "keys" else 64, 64, 8, 2, "masked", False
    if part == "forward":
        return 64, 64, 4, 2 if short or width > 64 else 3, "branch", short or width > 64
    if part == "queries":
        return 64, 64, 4, 3 if width <= 64 and not short else 2, "branch", width > 64
    return (32, 128, 8, 3, "branch", False) if width > 64 else (64, 64, 4, 2, "branch", False)


def sparse_strides(x: Tensor) -> tuple[int, int, int]:
    """Strides of batch, head and token; the last axis is contiguous."""
    return x.stride(0), x.stride(1), x.stride(2)


def sparse_source(x: Tensor, size: int, wide: int, descriptors: bool) -> tuple:
    """A tensor [B, H, T, D] as the kernels read it: (pointer, strides) or (descriptor, None)."""
    if not descriptors:
        return x, sparse_strides(x)
    made = triton.tools.tensor_descriptor.TensorDescriptor(
        x, list(x.shape), list(x.stride()), [1, 1, size, wide]
    )
    return made, None


def sparse_can_describe(step: int, *sources: Tensor) -> bool:
    """Whether tensor descriptors can read them: rows and strides of whole 16 bytes."""
    whole = all(
        n > 0 and n * x.element_size() % 16 == 0
        for x in sources
        for n in (*x.stride()[:-1], x.shape[-1])
    )
    return step == 1 and whole and all(x.data_ptr() % 16 == 0 for x in sources)


def sparse_tail(step: int, length: int, size: int) -> int:
    """Blocks of `size` places, over all residues of the dilation."""
    blocks: int = triton.cdiv(triton.cdiv(length, step), size)
    return blocks * step


def sparse_common(q: Tensor, k: Tensor, pattern, extras: tuple, side: int) -> dict:
    """What all kernels are given; `extras`: (real, slopes, sinks, scale, cap, own). Lists of side 0
    are the keys of query blocks, of side 1 the queries of key blocks."""
    real, slopes, _, scale, cap, own = extras
    plan = [0] * 10
    bounds, spans, segment = pattern.bounds, pattern.spans, pattern.segment
    table = None if pattern.exact else pattern.table
    counts, index, part = None, None, 0
    if bounds is not None:
        plan[0], plan[1] = bounds.stride(0) * (bounds.shape[0] > 1), 4 * (spans.shape[0] > 1)
    if pattern.lists is not None:
        counts, index = pattern.lists[2 * side : 2 * side + 2]
        part = pattern.part
        for at, given in ((2, counts), (4, index)):
            plan[at] = given.stride(0) * (given.shape[0] > 1)
            plan[at + 1] = given.stride(1) * (given.shape[1] > 1)
        plan[8] = index.shape[-1]
    if table is not None:
        plan[6], plan[7] = table.stride(1) * (table.shape[1] > 1), table.shape[-1]
        plan[9] = table.stride(0) * (table.shape[0] > 1)
    heads, width = q.shape[1], q.shape[3]
    return {
        "sizes": (heads, heads // k.shape[1], q.shape[2], pattern.step),
        "band": pattern.band,
        "Bounds": bounds,
        "Spans": spans,
        "Counts": counts,
        "Index": index,
        "Segment": segment,
        "Table": table,
        "plan_at": tuple(plan),
        "Real": None if real is None else real.view(torch.uint8),
        "Slopes": slopes,
        "scale": scale,
        "cap": cap or 1.0,
        "flags": (
            pattern.low,
            pattern.headed,
            own,
            cap is not None,
            slopes is not None,
            pattern.extra,
            pattern.aligned,
        ),
        "DILATED": pattern.step > 1,
        "D": width,
        "WIDE": max(16, triton.next_power_of_2(width)),
        "PART": part,
        "PRECISION": "tf32x3" if q.dtype == torch.float32 else "tf32",
    }


def sparse_settings(part: str, q: Tensor, pattern, extras: tuple, config: tuple | None) -> tuple:
    """The config of a part, fitted to padding and to the blocks of lists."""
    config = config or sparse_config(part, q.shape[3], q.dtype, pattern.short)
    usual = (0, False, 1024)[len(config) - 6 :]
    m, n, warps, stages, loops, describe, registers, turned, chunk = tuple(config) + usual
    if extras[0] is not None:
        loops = "masked"
    if pattern.part:
        m, n = min(m, pattern.part), min(n, pattern.part)
    return m, n, warps, stages, loops, describe, registers or None, turned, chunk


def sparse_forward_run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern,
    extras: tuple,
    config: tuple | None = None,
) -> tuple[Tensor, Tensor]:
    """(o, lse)."""
    b, h, t, d = q.shape
    given = sparse_common(q, k, pattern, extras, 0)
    m, n, warps, stages, loops, describe, registers, _, _ = sparse_settings(
        "forward", q, pattern, extras, config
    )
    describe = describe and sparse_can_describe(pattern.step, k, v)
    out = torch.empty(b, t, h, d, dtype=q.dtype, device=q.device).transpose(1, 2)
    lse = torch.empty(b, h, t, dtype=torch.float32, device=q.device)
    k_from, k_at = sparse_source(k, n, given["WIDE"], describe)
    v_from, v_at = sparse_source(v, n, given["WIDE"], describe)
    sparse_forward[(sparse_tail(pattern.step, t, m) * b * h,)](
        q, k_from, v_from, out, lse, sparse_strides(q), k_at, v_at, sparse_strides(out),
        Sinks=extras[2], M=m, N=n, LOOPS=loops, LAST_FIRST=pattern.last_first, num_warps=warps,
        num_stages=stages, maxnreg=registers, **given,
    )  # fmt: skip
    return out, lse


def sparse_queries_run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
    grad_lse: Tensor | None,
    pattern,
    extras: tuple,
    config: tuple | None = None,
) -> tuple[Tensor, Tensor]:
    """(dq, delta)."""
    b, h, t, _ = q.shape
    dq, delta = torch.empty_like(q), torch.empty_like(lse)
    given = sparse_common(q, k, pattern, extras, 0)
    m, n, warps, stages, loops, describe, registers, _, _ = sparse_settings(
        "queries", q, pattern, extras, config
    )
    describe = describe and sparse_can_describe(pattern.step, k, v)
    k_from, k_at = sparse_source(k, n, given["WIDE"], describe)
    v_from, v_at = sparse_source(v, n, given["WIDE"], describe)
    sparse_queries[(sparse_tail(pattern.step, t, m) * b * h,)](
        q, k_from, v_from, out, grad, dq, lse, grad_lse, delta, sparse_strides(q), k_at, v_at,
        sparse_strides(out), sparse_strides(grad), sparse_strides(dq), M=m, N=n, LOOPS=loops,
        LAST_FIRST=pattern.last_first, num_warps=warps, num_stages=stages, maxnreg=registers,
        **given,
    )  # fmt: skip
    return dq, delta


def sparse_far_run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor,
    grad: Tensor,
    delta: Tensor,
    pattern,
    extras: tuple,
    near: int,
    chunk: int,
) -> tuple[Tensor, tuple[int, int]]:
    """The sums of `sparse_far_keys` [z, chunks, 2, rows, WIDE], and (rows, chunks)."""
    given = sparse_common(q, k, pattern, extras, 1)
    size = min(near, max(16, triton.next_power_of_2(pattern.band[4])), 64)
    rows = triton.cdiv(pattern.band[4], size) * size
    chunks = triton.cdiv(triton.cdiv(q.shape[2], pattern.step), chunk)
    z = k.shape[0] * k.shape[1] * pattern.step
    far = torch.empty(z, chunks, 2, rows, given["WIDE"], dtype=torch.float32, device=q.device)
    names = ("sizes", "band", "Real", "Slopes", "scale", "cap", "flags", "DILATED", "D", "WIDE")
    sparse_far_keys[(rows // size * chunks * z,)](
        q, k, v, grad, far, lse, delta, sparse_strides(q), sparse_strides(k), sparse_strides(v),
        sparse_strides(grad), far=(rows, chunks), M=64, N=size, NEAR=near, CHUNK=chunk,
        PRECISION=given["PRECISION"], num_warps=4, num_stages=2, **{x: given[x] for x in names},
    )  # fmt: skip
    return far, (rows, chunks)


def sparse_keys_run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor,
    grad: Tensor,
    delta: Tensor,
    pattern,
    extras: tuple,
    config: tuple | None = None,
) -> tuple[Tensor, Tensor]:
    """(dk, dv)."""
    b, few, t, _ = k.shape
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    given = sparse_common(q, k, pattern, extras, 1)
    m, n, warps, stages, loops, describe, registers, turned, chunk = sparse_settings(
        "keys", q, pattern, extras, config
    )
    describe = describe and sparse_can_describe(pattern.step, q, grad)
    far, parts = None, (1, 1)
    head, places = pattern.band[4], triton.cdiv(t, pattern.step)
    if 0 < head <= 512 and pattern.bounds is None and places > 2 * chunk:
        far, parts = sparse_far_run(q, k, v, lse, grad, delta, pattern, extras, n, chunk)
    q_from, q_at = sparse_source(q, m, given["WIDE"], describe)
    grad_from, grad_at = sparse_source(grad, m, given["WIDE"], describe)
    sparse_keys[(sparse_tail(pattern.step, t, n) * b * few,)](
        q_from, k, v, grad_from, dk, dv, far, lse, delta, q_at, sparse_strides(k),
        sparse_strides(v), grad_at, sparse_strides(dk), sparse_strides(dv), far=parts, M=m, N=n,
        LOOPS=loops, TURNED=turned, num_warps=warps, num_stages=stages, maxnreg=registers, **given,
    )  # fmt: skip
    return dk, dv


class SparseTriton(torch.autograd.Function):
    """(o, lse) of sparse attention, differentiable in q, k, v and the logits of the sinks."""

    @staticmethod
    def forward(ctx, *parts):
        q, k, v, sinks, pattern, real, slopes, scale, cap, own, configs = parts
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        extras = (real, slopes, sinks, scale, cap, own)
        out, lse = sparse_forward_run(q, k, v, pattern, extras, configs[0])
        ctx.save_for_backward(q, k, v, out, lse, sinks, real, slopes)
        ctx.rest = pattern, scale, cap, own, configs
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *grads):
        grad, grad_lse = grads
        q, k, v, out, lse, sinks, real, slopes = ctx.saved_tensors
        pattern, scale, cap, own, configs = ctx.rest
        grad = torch.zeros_like(out) if grad is None else grad.to(out.dtype)
        grad = grad if grad.stride(-1) == 1 else grad.contiguous()
        grad_lse = None if grad_lse is None else grad_lse.float().contiguous()
        extras = (real, slopes, sinks, scale, cap, own)
        dq, delta = sparse_queries_run(
            q, k, v, out, lse, grad, grad_lse, pattern, extras, configs[1]
        )
        dk, dv = sparse_keys_run(q, k, v, lse, grad, delta, pattern, extras, configs[2])
        dsinks = None
        if sinks is not None and ctx.needs_input_grad[3]:
            dsinks = -(torch.exp(sinks.float()[:, None] - lse) * delta).sum((0, 2)).to(sinks.dtype)
        return dq, dk, dv, dsinks, None, None, None, None, None, None, None


SPARSE_KERNELS: tuple[Callable[..., Any], ...] = (
    *SPARSE_FORWARD_JIT,
    *SPARSE_BACKWARD_JIT,
    sparse_config,
    sparse_settings,
    sparse_strides,
    sparse_source,
    sparse_can_describe,
    sparse_tail,
    sparse_common,
    sparse_forward_run,
    sparse_queries_run,
    sparse_far_run,
    sparse_keys_run,
    SparseTriton,
)
