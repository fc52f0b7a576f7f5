"""Queries and keys on a GPU, as they meet: RMS norm of each head and rotary angles in one pass.

    u = x / sqrt(mean_c x_c^2 + eps) gain            (NORM; else u = x)
    y = (u_a cos - u_b sin, u_a sin + u_b cos)       (TURN; else y = u)

with a, b the halves of a head and angle = place 10000^(-2 c / K).

Backward turns by the opposite angle and goes back through the norm, which it finds again from x;
the gradients of keys and of values are written side by side, as their projection gave them.

Shapes: q [B, T, H, K] with any strides but K's, kv [B, S, 2, G, K] contiguous or absent, place [T],
gains [K], K even. Out: q' [B, T, H, K], k' [B, S, G, K]. fp32 inside. A program takes a few tokens
of a few heads of either q or k (or, backward, v). Gains are summed in two stages in a fixed order.
Floor in bytes an element of q and k, bf16: forward 2 + 2, backward 2 + 2 (+ 2 with NORM).
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"
# (what a kernel takes are pointers and numbers of the device: Python has no types for them)

from collections.abc import Callable
from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:  # the PyTorch reference serves
    triton = None

if triton is not None:

    @triton.jit
    def turn_angles(place, time, length, HALF: tl.constexpr, SIZE: tl.constexpr):
        """cos and sin [tokens, 1, pairs], from the series at half of the angle."""
        pair = tl.arange(0, SIZE).to(tl.float32)
        at = tl.load(place + time, mask=time < length, other=0).to(tl.float32)
        turns = at[:, None] * (tl.exp(pair * (-9.210340371976184 / HALF)) * 0.15915494309189535)
        half = (turns - tl.floor(turns + 0.5)) * 3.141592653589793  # of the angle
        x = half * half
        sine = 1 - x / 20 * (1 - x / 42 * (1 - x / 72 * (1 - x / 110)))
        sine = half * (1 - x / 6 * sine)
        cosine = 1 - x / 30 * (1 - x / 56 * (1 - x / 90 * (1 - x / 132)))
        cosine = 1 - x / 2 * (1 - x / 12 * cosine)
        return (1 - 2 * sine * sine)[:, None, :], (2 * sine * cosine)[:, None, :]

    @triton.jit
    def turn_gains(gain, HALF: tl.constexpr, SIZE: tl.constexpr):
        """The two halves of a gain, [1, 1, pairs]."""
        pair = tl.arange(0, SIZE)
        a = tl.load(gain + pair, mask=pair < HALF, other=0.0).to(tl.float32)
        b = tl.load(gain + HALF + pair, mask=pair < HALF, other=0.0).to(tl.float32)
        return a[None, None, :], b[None, None, :]

    @triton.jit
    def turn_halves(
        x,
        block,
        length,
        heads,
        x_b,
        x_t,
        x_h,
        HALF: tl.constexpr,
        SIZE: tl.constexpr,
        SPAN: tl.constexpr,
        HEADS: tl.constexpr,
    ):
        """Both halves of a tile [tokens, heads, pairs] of x, and where its rows lie."""
        time = (tl.program_id(0) * SPAN + tl.arange(0, SPAN))[:, None, None]
        head = (block * HEADS + tl.arange(0, HEADS))[None, :, None]
        pair = tl.arange(0, SIZE)[None, None, :]
        keep = (time < length) & (head < heads) & (pair < HALF)
        at = tl.program_id(2).to(tl.int64) * x_b + time.to(tl.int64) * x_t + head * x_h + pair
        a = tl.load(x + at, mask=keep, other=0.0).to(tl.float32)
        b = tl.load(x + at + HALF, mask=keep, other=0.0).to(tl.float32)
        return a, b, keep

    @triton.jit
    def turn_forward_tile(
        x,
        out,
        place,
        gain,
        block,
        length,
        heads,
        x_b,
        x_t,
        x_h,
        eps,
        TURN: tl.constexpr,
        HALF: tl.constexpr,
        SIZE: tl.constexpr,
        SPAN: tl.constexpr,
        HEADS: tl.constexpr,
    ):
        a, b, keep = turn_halves(x, block, length, heads, x_b, x_t, x_h, HALF, SIZE, SPAN, HEADS)
        if gain is not None:
            scale = tl.rsqrt((tl.sum(a * a, 2) + tl.sum(b * b, 2)) / (2 * HALF) + eps)[:, :, None]
            gain_a, gain_b = turn_gains(gain, HALF, SIZE)
            a, b = a * scale * gain_a, b * scale * gain_b
        time = tl.program_id(0) * SPAN + tl.arange(0, SPAN)
        if TURN:
            cos, sin = turn_angles(place, time, length, HALF, SIZE)
            a, b = a * cos - b * sin, a * sin + b * cos
        row = (tl.program_id(2).to(tl.int64) * length + time)[:, None, None] * heads
        head = (block * HEADS + tl.arange(0, HEADS))[None, :, None]
        to = (row + head) * (2 * HALF) + tl.arange(0, SIZE)[None, None, :]
        tl.store(out + to, a.to(out.dtype.element_ty), mask=keep)
        tl.store(out + to + HALF, b.to(out.dtype.element_ty), mask=keep)

    @triton.jit
    def turn_backward_tile(
        dy,
        x,
        dx,
        place,
        gain,
        parts,
        block,
        blocks,
        length,
        heads,
        dy_b,
        dy_t,
        dy_h,
        x_b,
        x_t,
        x_h,
        dx_b,
        dx_t,
        eps,
        TURN: tl.constexpr,
        HALF: tl.constexpr,
        SIZE: tl.constexpr,
        SPAN: tl.constexpr,
        HEADS: tl.constexpr,
    ):
        a, b, keep = turn_halves(
            dy, block, length, heads, dy_b, dy_t, dy_h, HALF, SIZE, SPAN, HEADS
        )
        time = tl.program_id(0) * SPAN + tl.arange(0, SPAN)
        if TURN:
            cos, sin = turn_angles(place, time, length, HALF, SIZE)
            a, b = a * cos + b * sin, b * cos - a * sin
        if gain is not None:
            u, w, _ = turn_halves(x, block, length, heads, x_b, x_t, x_h, HALF, SIZE, SPAN, HEADS)
            inverse = tl.rsqrt((tl.sum(u * u, 2) + tl.sum(w * w, 2)) / (2 * HALF) + eps)
            inverse = inverse[:, :, None]
            u, w = u * inverse, w * inverse
            tile = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
            pair = tl.arange(0, SIZE)
            line = parts + (tile.to(tl.int64) * blocks + block) * (2 * HALF) + pair
            tl.store(line, tl.sum(tl.sum(a * u, 0), 0), mask=pair < HALF)
            tl.store(line + HALF, tl.sum(tl.sum(b * w, 0), 0), mask=pair < HALF)
            gain_a, gain_b = turn_gains(gain, HALF, SIZE)
            a, b = a * gain_a, b * gain_b
            mean = (tl.sum(a * u, 2) + tl.sum(b * w, 2))[:, :, None] / (2 * HALF)
            a, b = (a - u * mean) * inverse, (b - w * mean) * inverse
        head = (block * HEADS + tl.arange(0, HEADS))[None, :, None]
        to = tl.program_id(2).to(tl.int64) * dx_b + time.to(tl.int64)[:, None, None] * dx_t
        to = to + head * (2 * HALF) + tl.arange(0, SIZE)[None, None, :]
        tl.store(dx + to, a.to(dx.dtype.element_ty), mask=keep)
        tl.store(dx + to + HALF, b.to(dx.dtype.element_ty), mask=keep)

    @triton.jit
    def turn_rows_forward(
        q,
        kv,
        out_q,
        out_k,
        place,
        gain_q,
        gain_k,
        length_q,
        length_k,
        heads_q,
        heads_k,
        q_b,
        q_t,
        q_h,
        eps,
        TURN: tl.constexpr,
        HALF: tl.constexpr,
        SIZE: tl.constexpr,
        SPAN: tl.constexpr,
        HEADS: tl.constexpr,
    ):
        part = tl.program_id(1)
        blocks = tl.cdiv(heads_q, HEADS)
        if part < blocks:
            turn_forward_tile(
                q,
                out_q,
                place,
                gain_q,
                part,
                length_q,
                heads_q,
                q_b,
                q_t,
                q_h,
                eps,
                TURN,
                HALF,
                SIZE,
                SPAN,
                HEADS,
            )
        else:
            step = heads_k * 4 * HALF
            turn_forward_tile(
                kv,
                out_k,
                place,
                gain_k,
                part - blocks,
                length_k,
                heads_k,
                length_k * step,
                step,
                2 * HALF,
                eps,
                TURN,
                HALF,
                SIZE,
                SPAN,
                HEADS,
            )

    @triton.jit
    def turn_rows_backward(
        dy_q,
        dy_k,
        dy_v,
        q,
        kv,
        dq,
        dkv,
        place,
        gain_q,
        gain_k,
        parts_q,
        parts_k,
        length_q,
        length_k,
        heads_q,
        heads_k,
        dq_b,
        dq_t,
        dq_h,
        dk_b,
        dk_t,
        dk_h,
        dv_b,
        dv_t,
        dv_h,
        q_b,
        q_t,
        q_h,
        eps,
        TURN: tl.constexpr,
        HALF: tl.constexpr,
        SIZE: tl.constexpr,
        SPAN: tl.constexpr,
        HEADS: tl.constexpr,
    ):
        part = tl.program_id(1)
        blocks, more = tl.cdiv(heads_q, HEADS), tl.cdiv(heads_k, HEADS)
        step, wide = heads_k * 4 * HALF, heads_q * 2 * HALF
        if part < blocks:
            turn_backward_tile(
                dy_q,
                q,
                dq,
                place,
                gain_q,
                parts_q,
                part,
                blocks,
                length_q,
                heads_q,
                dq_b,
                dq_t,
                dq_h,
                q_b,
                q_t,
                q_h,
                length_q * wide,
                wide,
                eps,
                TURN,
                HALF,
                SIZE,
                SPAN,
                HEADS,
            )
        elif part < blocks + more:
            turn_backward_tile(
                dy_k,
                kv,
                dkv,
                place,
                gain_k,
                parts_k,
                part - blocks,
                more,
                length_k,
                heads_k,
                dk_b,
                dk_t,
                dk_h,
                length_k * step,
                step,
                2 * HALF,
                length_k * step,
                step,
                eps,
                TURN,
                HALF,
                SIZE,
                SPAN,
                HEADS,
            )
        else:
            turn_backward_tile(
                dy_v,
                kv,
                dkv + heads_k * 2 * HALF,
                place,
                None,
                None,
                part - blocks - more,
                more,
                length_k,
                heads_k,
                dv_b,
                dv_t,
                dv_h,
                0,
                0,
                0,
                length_k * step,
                step,
                eps,
                False,
                HALF,
                SIZE,
                SPAN,
                HEADS,
            )


TURN_JIT: tuple[Callable[..., Any], ...] = (
    (
        turn_angles,
        turn_gains,
        turn_halves,
        turn_forward_tile,
        turn_backward_tile,
        turn_rows_forward,
        turn_rows_backward,
    )
    if triton is not None
    else ()
)
