"""Triton engine of the chunked recurrence with one decay a head and token, forward and backward.

    S_t = e^{g_t} S_{t-1} + k_t v_t^T,   o_t = S_t^T q_t

One routine, the *walk*, serves all four products. Over the chunks of a segment, with G_ij as in
`ops.kernels.chunked`, `into` = e^{G_i} (from the chunk's start), `rest` = e^{G_Cj} (to its end):

    out <- ((x y^T) * D) z + into * (x S),   S <- e^{G_C} S + y^T (rest * z)

    o  = walk(q, k, v) on S            dq = walk(do, v, k) on S^T
    dk = walk(v, do, q) on dS^T        dv = walk(k, q, do) on dS

where the last two run against time with `into` and `rest` swapped and D transposed, and dS_t is the
gradient of S_t. dg_t = sum_{i>=t} (q_i . dq_i - k_i . dk_i) + <S_T, dS_T>, restarted at the end of
every segment from <S, dS> there, so that rounding does not add up over a long sequence.

Passes. A segment (`span` tokens) is one program; segments are parallel. `decay_sums` adds up each
segment's own k v^T, `decay_scan` carries the states over the segments, `decay_read` walks. With one
segment only the walk is left. The states at segment starts are kept for backward (4 K V bytes a
segment and head; at span 256 and K = V = 64 a quarter of the bytes of q, k and v in bf16).
Floors with E bytes an element: forward E B H T (2 K + 2 V) bytes, one more reading of k and v with
several segments; backward E B H T (4 K + 3 V). FLOPs a token and head with chunk C: forward
2 C (K + V) + 4 K V (+ 2 K V with segments), backward three times that.

Decays: g is cut at -1000 (e^-1000 is 0 in fp32), summed over each chunk in float64 and kept as a
pair of fp32 (`decay_logs`, 8 bytes a token and head), so that every G_ij has the precision of a sum
of its own, behind a reset too. No exponent is positive.
Sizes: K, V up to 256, any T; q, k, v with strides of their own, last axis contiguous; products in
`dot` (bf16, fp16, or fp32 as three tf32), sums and states in fp32. No atomics: deterministic.
Paper: Qin et al. 2024, arXiv:2405.17381, algorithms 5 and 6; two passes as in its parallel form.
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

    @triton.jit(do_not_specialize=["T", "chunks", "low"])
    def decay_logs(G, LOGS, gb, gh, gt, H, T, chunks, low, C: tl.constexpr, CHUNKS: tl.constexpr):
        """LOGS [2, B H, chunks C]: the sums of g from each chunk's start; what rounding lost."""
        groups = tl.cdiv(chunks, CHUNKS)
        row = tl.program_id(0) // groups
        b, h = (row // H).to(tl.int64), (row % H).to(tl.int64)
        n = (tl.program_id(0) % groups) * CHUNKS + tl.arange(0, CHUNKS)
        t = n[:, None] * C + tl.arange(0, C)[None, :]
        at = G + b * gb + h * gh + t.to(tl.int64) * gt
        g = tl.load(at, mask=t < T, other=0.0).to(tl.float64)
        wide = tl.cumsum(tl.maximum(g, -1000.0), 1)
        high = wide.to(tl.float32)
        at = LOGS + row.to(tl.int64) * chunks * C + t
        inside = (n < chunks)[:, None]
        tl.store(at, high, mask=inside)
        tl.store(at + low, (wide - high.to(tl.float64)).to(tl.float32), mask=inside)

    @triton.jit
    def decay_weights(
        G, low, start, left, gamma, C: tl.constexpr, GATED: tl.constexpr, REVERSE: tl.constexpr
    ):
        """D [C, C], into [C], rest [C] and e^{G_C} of the chunk of `left` tokens at `start`.

        GATED: G is at the logs of (batch, head), what they lost stands `low` further on.
        """
        i = tl.arange(0, C)
        live = i < left
        if GATED:
            low = tl.multiple_of(low, 16)
            last = G + start + C - 1
            high_last, low_last = tl.load(last), tl.load(last + low)
            high, lost = tl.load(G + start + i), tl.load(G + low + start + i)
            gaps = (high[:, None] - high[None, :]) + (lost[:, None] - lost[None, :])
            into = tl.exp(high)
            rest = tl.exp(tl.minimum((high_last - high) + (low_last - lost), 0.0))
            whole = tl.exp(high_last)
        else:
            gaps = (i[:, None] - i[None, :]).to(tl.float32) * gamma
            into = tl.exp((i + 1).to(tl.float32) * gamma)
            back = (tl.minimum(left, C) - 1 - i).to(tl.float32)
            rest = tl.exp(tl.where(live, back * gamma, float("-inf")))
            whole = tl.exp(tl.minimum(left, C).to(tl.float32) * gamma)
        if REVERSE:
            decay = tl.exp(tl.where(i[:, None] <= i[None, :], -gaps, float("-inf")))
            return decay, rest, into, whole
        else:
            decay = tl.exp(tl.where(i[:, None] >= i[None, :], gaps, float("-inf")))
            return decay, into, rest, whole

    @triton.jit
    def decay_walk(
        X, Y, Z, OUT, W, SUMS, G, STATE, LAST,
        sx, sy, sz, so, sw, low, s_x, s_z, begin, end, gamma, tile, final, sign,
        KX: tl.constexpr, PX: tl.constexpr, KZ: tl.constexpr, BZ: tl.constexpr, C: tl.constexpr,
        GATED: tl.constexpr, REVERSE: tl.constexpr, HAS_STATE: tl.constexpr,
        DOTS: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """out [begin:end, tile of BZ columns]; the state after it to LAST if `final`.

        All pointers are at (batch, head). DOTS: also sign * (w . out) of each row, over the tile.
        """
        i = tl.arange(0, C)
        cx = tl.arange(0, PX)
        cz = tile * BZ + tl.arange(0, BZ)
        in_x = (cx < KX)[None, :]
        in_z = (cz < KZ)[None, :]
        place = cx[:, None] * s_x + cz[None, :] * s_z
        inside = (cx < KX)[:, None] & in_z
        if HAS_STATE:
            state = tl.load(STATE + place, mask=inside, other=0.0)
        else:
            state = tl.zeros([PX, BZ], tl.float32)
        count = tl.cdiv(end - begin, C)
        for step in range(0, count):
            chunk = step
            if REVERSE:
                chunk = count - 1 - step
            start = tl.multiple_of(begin + chunk * C, 16).to(tl.int64)
            left = (end - begin - chunk * C).to(tl.int32)
            live = (i < left)[:, None]
            at_x = live & in_x if KX != PX else live
            at_z = live & in_z if KZ % BZ != 0 else live
            x = tl.load(X + start * sx + i[:, None] * sx + cx[None, :], mask=at_x, other=0.0)
            y = tl.load(Y + start * sy + i[:, None] * sy + cx[None, :], mask=at_x, other=0.0)
            z = tl.load(Z + start * sz + i[:, None] * sz + cz[None, :], mask=at_z, other=0.0)
            decay, into, rest, whole = decay_weights(G, low, start, left, gamma, C, GATED, REVERSE)
            scores = tl.dot(x, tl.trans(y), input_precision=PRECISION) * decay
            out = tl.dot(x, state.to(DOT), input_precision=PRECISION) * into[:, None]
            out = tl.dot(scores.to(DOT), z, out, input_precision=PRECISION)
            added = (z * rest[:, None]).to(DOT)
            state = state * whole + tl.dot(tl.trans(y), added, input_precision=PRECISION)
            spot = OUT + start * so + i[:, None] * so + cz[None, :]
            tl.store(spot, out.to(OUT.dtype.element_ty), mask=at_z)
            if DOTS:
                w = tl.load(W + start * sw + i[:, None] * sw + cz[None, :], mask=at_z, other=0.0)
                dots = tl.sum(w.to(tl.float32) * out, 1) * sign
                tl.store(SUMS + start + i, dots, mask=i < left)
        if final:
            tl.store(LAST + place, state, mask=inside)

    @triton.jit(do_not_specialize=["T", "span", "parts", "low"])
    def decay_sums(
        Y, Z, G, OUT, TOTAL, yb, yh, yt, zb, zh, zt, gb, gh, H, T, span, parts, low,
        KY: tl.constexpr, PY: tl.constexpr, KZ: tl.constexpr, BZ: tl.constexpr, C: tl.constexpr,
        GATED: tl.constexpr, REVERSE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """Each segment's own state, to the place in OUT [B H, parts, K, V] of the next segment.

        Segments 0 .. parts - 2, REVERSE: 1 .. parts - 1; TOTAL [B H, parts]: their sums of g.
        """
        tiles = tl.cdiv(KZ, BZ)
        tile = tl.program_id(0) % tiles
        part = (tl.program_id(0) // tiles) % (parts - 1)
        row = (tl.program_id(0) // tiles) // (parts - 1)
        b, h = (row // H).to(tl.int64), (row % H).to(tl.int64)
        target = row.to(tl.int64) * parts + part
        if REVERSE:
            part += 1
        else:
            target += 1
        begin = part * span
        end = tl.minimum(begin + span, T)
        Y += b * yb + h * yh
        Z += b * zb + h * zh
        G += b * gb + h * gh
        i = tl.arange(0, C)
        cy = tl.arange(0, PY)
        cz = tile * BZ + tl.arange(0, BZ)
        gamma = 0.0
        if not GATED:
            gamma = tl.maximum(tl.load(G).to(tl.float32), -1000.0)
        state = tl.zeros([PY, BZ], tl.float32)
        count = tl.cdiv(end - begin, C)
        total = tl.zeros([], tl.float64)
        for step in range(0, count):
            chunk = step
            if REVERSE:
                chunk = count - 1 - step
            start = tl.multiple_of(begin + chunk * C, 16).to(tl.int64)
            left = end - begin - chunk * C
            live = (i < left)[:, None]
            at_y = live & (cy < KY)[None, :] if KY != PY else live
            at_z = live & (cz < KZ)[None, :] if KZ % BZ != 0 else live
            y = tl.load(Y + start * yt + i[:, None] * yt + cy[None, :], mask=at_y, other=0.0)
            z = tl.load(Z + start * zt + i[:, None] * zt + cz[None, :], mask=at_z, other=0.0)
            if GATED:
                logs = G + start + i
                last = G + start + C - 1
                whole = tl.load(last)
                total += whole.to(tl.float64) + tl.load(last + low).to(tl.float64)
                rest = tl.load(logs)
                if not REVERSE:
                    rest = (whole - rest) + (tl.load(last + low) - tl.load(logs + low))
                    rest = tl.minimum(rest, 0.0)
                rest = tl.exp(rest)
                whole = tl.exp(whole)
            else:
                last = tl.minimum(left, C) - 1
                age = i + 1 if REVERSE else last - i
                rest = tl.exp(tl.where(i < left, age.to(tl.float32) * gamma, float("-inf")))
                whole = tl.exp((last + 1).to(tl.float32) * gamma)
            added = (z.to(tl.float32) * rest[:, None]).to(DOT)
            product = tl.dot(tl.trans(y), added, input_precision=PRECISION)
            state = state * whole + product
        at = OUT + target * KY * KZ + cy[:, None] * KZ + cz[None, :]
        tl.store(at, state, mask=(cy < KY)[:, None] & (cz < KZ)[None, :])
        if GATED:
            whole = TOTAL + row.to(tl.int64) * parts + part
            tl.store(whole, total.to(tl.float32), mask=tile == 0)

    @triton.jit(do_not_specialize=["T", "span", "parts"])
    def decay_scan(
        STATES, G, TOTAL, FIRST, gb, gh, fb, fh, H, T, span, parts, SIZE: tl.constexpr,
        BLOCK: tl.constexpr, GATED: tl.constexpr, REVERSE: tl.constexpr, HAS_FIRST: tl.constexpr,
        STAGES: tl.constexpr,
    ):  # fmt: skip
        """STATES [B H, parts, K V]: what each segment added becomes what each segment starts from.

        FIRST: the state before the first segment (REVERSE: the gradient after the last).
        """
        row = tl.program_id(0)
        b, h = (row // H).to(tl.int64), (row % H).to(tl.int64)
        at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = at < SIZE
        base = STATES + row.to(tl.int64) * parts * SIZE + at
        gamma = 0.0
        if not GATED:
            gamma = tl.maximum(tl.load(G + b * gb + h * gh).to(tl.float32), -1000.0)
        if HAS_FIRST:
            carry = tl.load(FIRST + b * fb + h * fh + at, mask=inside, other=0.0)
        else:
            carry = tl.zeros([BLOCK], tl.float32)
        edge = parts - 1 if REVERSE else parts * 0
        tl.store(base + edge.to(tl.int64) * SIZE, carry, mask=inside)
        for step in tl.range(1, parts, num_stages=STAGES):
            part = parts - 1 - step if REVERSE else step
            past = part + 1 if REVERSE else part - 1
            if GATED:
                total = tl.load(TOTAL + row.to(tl.int64) * parts + past)
            else:
                total = tl.minimum(T - past * span, span).to(tl.float32) * gamma
            spot = base + part.to(tl.int64) * SIZE
            carry = carry * tl.exp(total) + tl.load(spot, mask=inside, other=0.0)
            tl.store(spot, carry, mask=inside)

    @triton.jit(do_not_specialize=["T", "span", "parts", "low"])
    def decay_read(
        Q, K, V, G, OUT, STATES, LAST, qb, qh, qt, kb, kh, kt, vb, vh, vt, ob, oh, ot, gb, gh,
        H, T, span, parts, low,
        KQ: tl.constexpr, PQ: tl.constexpr, KV: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
        GATED: tl.constexpr, HAS_STATE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """All outputs of a segment, and the last state."""
        pid = tl.num_programs(0) - 1 - tl.program_id(0)  # the last segments are still in the cache
        tiles = tl.cdiv(KV, BV)
        tile = pid % tiles
        part = (pid // tiles) % parts
        row = (pid // tiles) // parts
        b, h = (row // H).to(tl.int64), (row % H).to(tl.int64)
        G += b * gb + h * gh
        gamma = 0.0
        if not GATED:
            gamma = tl.maximum(tl.load(G).to(tl.float32), -1000.0)
        size = tl.full([], KQ * KV, tl.int64)
        decay_walk(
            Q + b * qb + h * qh, K + b * kb + h * kh, V + b * vb + h * vh, OUT + b * ob + h * oh,
            Q, G, G, STATES + (row * size * parts + part * size), LAST + row * size,
            qt, kt, vt, ot, 0, low, KV, 1, part * span, tl.minimum(part * span + span, T), gamma,
            tile, part == parts - 1, 1.0,
            KQ, PQ, KV, BV, C, GATED, False, HAS_STATE, False, DOT, PRECISION,
        )  # fmt: skip

    @triton.jit(do_not_specialize=["T", "span", "parts", "low"])
    def decay_grads(
        Q, K, V, DO, G, DQ, DK, DV, SUMS, STATES, DSTATES, DFIRST,
        qb, qh, qt, kb, kh, kt, vb, vh, vt, ob, oh, ot, gb, gh,
        pb, ph, pt, rb, rh, rt, ub, uh, ut, H, T, span, parts, low,
        KQ: tl.constexpr, PQ: tl.constexpr, BK: tl.constexpr,
        KV: tl.constexpr, PV: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
        GATED: tl.constexpr, HAS_STATE: tl.constexpr, HAS_LATER: tl.constexpr,
        DOTS: tl.constexpr, STORE_FIRST: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """dq, dk (tiles of K) and dv (tiles of V) of a segment: one program each, side by side."""
        tiles_k = tl.cdiv(KQ, BK)
        tiles = 2 * tiles_k + tl.cdiv(KV, BV)
        pid = tl.num_programs(0) - 1 - tl.program_id(0)
        job = pid % tiles
        part = (pid // tiles) % parts
        row = (pid // tiles) // parts
        b, h = (row // H).to(tl.int64), (row % H).to(tl.int64)
        q, k, v = Q + b * qb + h * qh, K + b * kb + h * kh, V + b * vb + h * vh
        do = DO + b * ob + h * oh
        g = G + b * gb + h * gh
        gamma = 0.0
        if not GATED:
            gamma = tl.maximum(tl.load(g).to(tl.float32), -1000.0)
        begin = part * span
        end = tl.minimum(begin + span, T)
        size = tl.full([], KQ * KV, tl.int64)
        state = STATES + (row * size * parts + part * size)
        later = DSTATES + (row * size * parts + part * size)
        sums = SUMS + (row.to(tl.int64) * 2 * tiles_k + job) * T
        if job < tiles_k:
            decay_walk(
                do, v, k, DQ + b * pb + h * ph, q, sums, g, state, DFIRST,
                ot, vt, kt, pt, qt, low, 1, KV, begin, end, gamma, job, False, 1.0,
                KV, PV, KQ, BK, C, GATED, False, HAS_STATE, DOTS, DOT, PRECISION,
            )  # fmt: skip
        elif job < 2 * tiles_k:
            decay_walk(
                v, do, q, DK + b * rb + h * rh, k, sums, g, later, DFIRST,
                vt, ot, qt, rt, kt, low, 1, KV, begin, end, gamma, job - tiles_k, False, -1.0,
                KV, PV, KQ, BK, C, GATED, True, HAS_LATER, DOTS, DOT, PRECISION,
            )  # fmt: skip
        else:
            decay_walk(
                k, q, do, DV + b * ub + h * uh, q, sums, g, later, DFIRST + row * size,
                kt, qt, ot, ut, 0, low, KV, 1, begin, end, gamma, job - 2 * tiles_k,
                STORE_FIRST & (part == 0), 1.0,
                KQ, PQ, KV, BV, C, GATED, True, HAS_LATER, False, DOT, PRECISION,
            )  # fmt: skip

    @triton.jit(do_not_specialize=["T", "span", "parts", "rows"])
    def decay_gate(
        SUMS, STATES, DSTATES, LAST, DLAST, DG, T, span, parts, rows,
        SIZE: tl.constexpr, BLOCK: tl.constexpr, C: tl.constexpr, HAS_LAST: tl.constexpr,
    ):  # fmt: skip
        """dg [B H, T] in fp32 from the row sums [B H, rows, T] and the states at the borders."""
        row = (tl.program_id(0) // parts).to(tl.int64)
        part = tl.program_id(0) % parts
        acc = tl.zeros([BLOCK], tl.float32)
        for start in range(0, SIZE, BLOCK):
            at = start + tl.arange(0, BLOCK)
            if part < parts - 1:
                s = tl.load(STATES + (row * parts + part + 1) * SIZE + at, mask=at < SIZE, other=0)
                d = tl.load(DSTATES + (row * parts + part) * SIZE + at, mask=at < SIZE, other=0)
                acc += s * d
            elif HAS_LAST:
                s = tl.load(LAST + row * SIZE + at, mask=at < SIZE, other=0)
                d = tl.load(DLAST + row * SIZE + at, mask=at < SIZE, other=0)
                acc += s * d
        carry = tl.sum(acc, 0)
        begin = part * span
        end = tl.minimum(begin + span, T)
        count = tl.cdiv(end - begin, C)
        for step in range(0, count):
            at = begin + (count - 1 - step) * C + tl.arange(0, C)
            total = tl.zeros([C], tl.float32)
            for r in range(0, rows):
                total += tl.load(SUMS + (row * rows + r) * T + at, mask=at < end, other=0.0)
            tl.store(DG + row * T + at, carry + tl.cumsum(total, 0, reverse=True), mask=at < end)
            carry += tl.sum(total, 0)


DECAY_JIT: tuple[Callable[..., Any], ...] = ()
if triton is not None:
    DECAY_JIT = (
        decay_logs,
        decay_weights,
        decay_walk,
        decay_sums,
        decay_scan,
        decay_read,
        decay_grads,
        decay_gate,
    )
