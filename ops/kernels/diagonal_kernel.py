"""Triton engine of the chunked recurrence with a decay for every key channel.

    S_t = diag(e^{g_t}) S_{t-1} + k_t v_t^T,   o_t = S_t^T q_t

A *piece* is tokens 1..n of a chunk; G_i = g_2 + ... + g_i (the first token's own gate stands
outside), R = G_n / 2, all vectors over K:

    q' = q * e^{G - R},  k' = k * e^{R - G},  S' = e^{g_1 + R} * S
    o  = tril(q' k'^T) v + q' S',   S <- e^{G_n - R} * (S' + k'^T v)

Two exponentials an element, none beyond e^{BOUND/2} while no channel decays by more than BOUND
inside the piece. A piece is the whole chunk, or where that breaks the bound a half, a quarter ..
down to one token, for which G = 0. So no gate, a reset or -inf included, overflows or spoils what
is behind it; strong gates cost time instead. Pieces are the largest mild aligned ones: the same
along and against time.

Backward runs the same two walks, as in `ops.kernels.chunked_kernel`: over keys (o, and dv against
time), over values (dq, and dk against time, scaled afterwards). dg_t = sum_{i>=t} (q_i * dq_i -
k_i * dk_i) + sum_v (S * dS) at the end of the segment; the two products leave in fp32.
Floors with E bytes an element: forward E B H T (2 K + 2 V) + 4 B H T K bytes, backward E B H T
(4 K + 3 V) + 8 B H T K; FLOPs a token and head as with one decay. K, V up to 256, any T.
Paper: Yang et al. 2023, arXiv:2312.06635, section 4 (its secondary chunks, only where needed).
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
    def diagonal_piece(g, done, C: tl.constexpr, REVERSE: tl.constexpr, BOUND: tl.constexpr):
        """The next piece of a chunk of which `done` tokens (from the start, REVERSE: the end) are.

        Its rows [C], its size, g - R by row [C, K], the factors of the state before and after.
        """
        i = tl.arange(0, C)
        size = tl.where(done == 0, C, done & (-done))
        first = C - done - size if REVERSE else done
        inner = tl.where(((i > first) & (i < first + size))[:, None], g, 0.0)
        total = tl.sum(inner, 0)
        while tl.min(total) < -BOUND:
            size = size // 2
            first = C - done - size if REVERSE else done
            inner = tl.where(((i > first) & (i < first + size))[:, None], g, 0.0)
            total = tl.sum(inner, 0)
        lead = tl.sum(tl.where((i == first)[:, None], g, 0.0), 0)
        middle = 0.5 * total
        gaps = tl.cumsum(inner, 0) - middle[None, :]
        rows = (i >= first) & (i < first + size)
        if REVERSE:
            return rows, size, gaps, tl.exp(total - middle), tl.exp(lead + middle)
        else:
            return rows, size, gaps, tl.exp(lead + middle), tl.exp(total - middle)

    @triton.jit
    def diagonal_tile(
        X, stride, begin, end, chunk, c, WIDTH: tl.constexpr, WHOLE: tl.constexpr, C: tl.constexpr
    ):  # fmt: skip
        """Rows of one chunk, [C, columns c]; zeros where it is outside of the segment."""
        i = tl.arange(0, C)
        start = begin + chunk * C
        live = ((i < end - start) & (chunk >= 0))[:, None]
        inside = live if WHOLE else live & (c < WIDTH)[None, :]
        at = X + start.to(tl.int64) * stride + i[:, None] * stride + c[None, :]
        return tl.load(at, mask=inside, other=0.0)

    @triton.jit
    def diagonal_keys(
        X, Y, Z, G, OUT, STATE, LAST, sx, sy, sz, sg, so, begin, end, tile, final,
        K: tl.constexpr, P: tl.constexpr, KZ: tl.constexpr, BZ: tl.constexpr, C: tl.constexpr,
        REVERSE: tl.constexpr, HAS_STATE: tl.constexpr,
        BOUND: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """o = walk(q, k, v) on S or, against time, dv = walk(k, q, do) on dS; z, out in tiles.

        The state is carried as S^T, so that what it adds is a product with a loaded left side.
        """
        i = tl.arange(0, C)
        ck = tl.arange(0, P)
        cz = tile * BZ + tl.arange(0, BZ)
        place = ck[None, :] * KZ + cz[:, None]
        inside = (ck < K)[None, :] & (cz < KZ)[:, None]
        ordered = i[:, None] <= i[None, :] if REVERSE else i[:, None] >= i[None, :]
        if HAS_STATE:
            state = tl.load(STATE + place, mask=inside, other=0.0)
        else:
            state = tl.zeros([BZ, P], tl.float32)
        count = tl.cdiv(end - begin, C)
        chunk = count - 1 if REVERSE else count * 0
        x_next = diagonal_tile(X, sx, begin, end, chunk, ck, K, K == P, C)
        y_next = diagonal_tile(Y, sy, begin, end, chunk, ck, K, K == P, C)
        z_next = diagonal_tile(Z, sz, begin, end, chunk, cz, KZ, KZ % BZ == 0, C)
        g_next = diagonal_tile(G, sg, begin, end, chunk, ck, K, K == P, C)
        for step in range(0, count):
            x, y, z = x_next, y_next, z_next
            g = tl.maximum(g_next.to(tl.float32), -128.0)
            chunk = count - 1 - step if REVERSE else step
            start = (begin + chunk * C).to(tl.int64)
            live = (i < end - begin - chunk * C)[:, None]
            at_z = live & (cz < KZ)[None, :] if KZ % BZ != 0 else live
            after = (
                chunk - 1 if REVERSE else chunk + 1
            )  # its tiles come while this one is worked on
            x_next = diagonal_tile(X, sx, begin, end, after, ck, K, K == P, C)
            y_next = diagonal_tile(Y, sy, begin, end, after, ck, K, K == P, C)
            z_next = diagonal_tile(Z, sz, begin, end, after, cz, KZ, KZ % BZ == 0, C)
            g_next = diagonal_tile(G, sg, begin, end, after, ck, K, K == P, C)
            out = tl.zeros([C, BZ], tl.float32)
            done = chunk * 0
            while done < C:
                rows, size, gaps, enter, leave = diagonal_piece(g, done, C, REVERSE, BOUND)
                if REVERSE:
                    gaps = -gaps
                xs = tl.where(rows[:, None], x.to(tl.float32) * tl.exp(gaps), 0.0).to(DOT)
                ys = tl.where(rows[:, None], y.to(tl.float32) * tl.exp(-gaps), 0.0).to(DOT)
                scores = tl.dot(xs, tl.trans(ys), input_precision=PRECISION)
                scores = tl.where(ordered, scores, 0.0).to(DOT)
                state *= enter[None, :]
                out = tl.dot(xs, tl.trans(state.to(DOT)), out, input_precision=PRECISION)
                out = tl.dot(scores, z, out, input_precision=PRECISION)
                state = tl.dot(tl.trans(z), ys, state, input_precision=PRECISION)
                state *= leave[None, :]
                done += size
            spot = OUT + start * so + i[:, None] * so + cz[None, :]
            tl.store(spot, out.to(OUT.dtype.element_ty), mask=at_z)
        if final:
            tl.store(LAST + place, state, mask=inside)

    @triton.jit
    def diagonal_values(
        X, Y, Z, W, G, OUT, DOTS, STATE, sx, sy, sz, sw, sg, so, begin, end, tile, sign,
        KX: tl.constexpr, PX: tl.constexpr, K: tl.constexpr, BK: tl.constexpr, C: tl.constexpr,
        REVERSE: tl.constexpr, HAS_STATE: tl.constexpr, HAS_DOTS: tl.constexpr,
        BOUND: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """dq = walk(do, v, k) on S^T or, against time, dk = walk(v, do, q) on dS^T; K in tiles.

        HAS_DOTS: also sign * w * out in fp32, [T, K] at DOTS; the pairs of a token with itself are
        taken in fp32, as in dg those of q * dq and k * dk must cancel.
        """
        i = tl.arange(0, C)
        cx = tl.arange(0, PX)
        ck = tile * BK + tl.arange(0, BK)
        place = ck[None, :] * KX + cx[:, None]
        ordered = i[:, None] < i[None, :] if REVERSE else i[:, None] > i[None, :]
        if HAS_STATE:
            inside = (cx < KX)[:, None] & (ck < K)[None, :]
            state = tl.load(STATE + place, mask=inside, other=0.0)
        else:
            state = tl.zeros([PX, BK], tl.float32)
        count = tl.cdiv(end - begin, C)
        chunk = count - 1 if REVERSE else count * 0
        x_next = diagonal_tile(X, sx, begin, end, chunk, cx, KX, KX == PX, C)
        y_next = diagonal_tile(Y, sy, begin, end, chunk, cx, KX, KX == PX, C)
        z_next = diagonal_tile(Z, sz, begin, end, chunk, ck, K, K % BK == 0, C)
        g_next = diagonal_tile(G, sg, begin, end, chunk, ck, K, K % BK == 0, C)
        for step in range(0, count):
            x, y, z = x_next, y_next, z_next
            g = tl.maximum(g_next.to(tl.float32), -128.0)
            chunk = count - 1 - step if REVERSE else step
            start = (begin + chunk * C).to(tl.int64)
            live = (i < end - begin - chunk * C)[:, None]
            at_k = live & (ck < K)[None, :] if K % BK != 0 else live
            after = chunk - 1 if REVERSE else chunk + 1
            x_next = diagonal_tile(X, sx, begin, end, after, cx, KX, KX == PX, C)
            y_next = diagonal_tile(Y, sy, begin, end, after, cx, KX, KX == PX, C)
            z_next = diagonal_tile(Z, sz, begin, end, after, ck, K, K % BK == 0, C)
            g_next = diagonal_tile(G, sg, begin, end, after, ck, K, K % BK == 0, C)
            scores = tl.dot(x, tl.trans(y), input_precision=PRECISION)
            own = tl.sum(tl.where(i[:, None] == i[None, :], scores, 0.0), 1)
            scores = tl.where(ordered, scores, 0.0).to(DOT)
            out = own[:, None] * z.to(tl.float32)
            done = chunk * 0
            while done < C:
                rows, size, gaps, enter, leave = diagonal_piece(g, done, C, REVERSE, BOUND)
                if REVERSE:
                    gaps = -gaps
                zs = tl.where(rows[:, None], z.to(tl.float32) * tl.exp(-gaps), 0.0).to(DOT)
                state *= enter[None, :]
                part = tl.dot(x, state.to(DOT), input_precision=PRECISION)
                part = tl.dot(scores, zs, part, input_precision=PRECISION)
                out += tl.where(rows[:, None], part * tl.exp(gaps), 0.0)
                state = tl.dot(tl.trans(y), zs, state, input_precision=PRECISION)
                state *= leave[None, :]
                done += size
            spot = OUT + start * so + i[:, None] * so + ck[None, :]
            tl.store(spot, out.to(OUT.dtype.element_ty), mask=at_k)
            if HAS_DOTS:
                w = tl.load(W + start * sw + i[:, None] * sw + ck[None, :], mask=at_k, other=0.0)
                at = (start + i[:, None]) * K + ck[None, :]
                tl.store(DOTS + at, sign * w.to(tl.float32) * out, mask=at_k)

    @triton.jit(do_not_specialize=["T", "span", "parts"])
    def diagonal_sums(
        Y, Z, G, OUT, TOTAL, yb, yh, yt, zb, zh, zt, gb, gh, gt, H, T, span, parts,
        K: tl.constexpr, BK: tl.constexpr, KZ: tl.constexpr, BZ: tl.constexpr, C: tl.constexpr,
        REVERSE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """Each segment's own state, as `decay_sums`; TOTAL [B H, parts, K]: their sums of g."""
        tiles_z = tl.cdiv(KZ, BZ)
        tiles = tiles_z * tl.cdiv(K, BK)
        job = tl.program_id(0) % tiles
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
        ck = (job // tiles_z) * BK + tl.arange(0, BK)
        cz = (job % tiles_z) * BZ + tl.arange(0, BZ)
        state = tl.zeros([BZ, BK], tl.float32)
        whole = tl.zeros([BK], tl.float32)
        count = tl.cdiv(end - begin, C)
        for step in range(0, count):
            chunk = count - 1 - step if REVERSE else step
            start = (begin + chunk * C).to(tl.int64)
            live = (i < end - begin - chunk * C)[:, None]
            at_k = live & (ck < K)[None, :] if K % BK != 0 else live
            y = diagonal_tile(Y, yt, begin, end, chunk, ck, K, K % BK == 0, C)
            z = diagonal_tile(Z, zt, begin, end, chunk, cz, KZ, KZ % BZ == 0, C)
            at = start * gt + i[:, None] * gt + ck[None, :]
            g = tl.maximum(tl.load(G + at, mask=at_k, other=0.0).to(tl.float32), -128.0)
            if REVERSE:
                reach = tl.exp(tl.cumsum(g, 0))
            else:  # the gates of later tokens: read one on, so that no sum is a difference
                at_k = at_k & (i + 1 < tl.minimum(end - begin - chunk * C, C))[:, None]
                next = tl.load(G + at + gt, mask=at_k, other=0.0).to(tl.float32)
                reach = tl.exp(tl.cumsum(tl.maximum(next, -128.0), 0, reverse=True))
            total = tl.sum(g, 0)
            ys = (y.to(tl.float32) * reach).to(DOT)
            added = tl.dot(tl.trans(z), ys, input_precision=PRECISION)
            state = state * tl.exp(total)[None, :] + added
            whole += total
        at = OUT + target * K * KZ + ck[None, :] * KZ + cz[:, None]
        tl.store(at, state, mask=(ck < K)[None, :] & (cz < KZ)[:, None])
        at = TOTAL + (row.to(tl.int64) * parts + part) * K + ck
        tl.store(at, whole, mask=(ck < K) & (job % tiles_z == 0))

    @triton.jit(do_not_specialize=["T", "parts"])
    def diagonal_scan(
        STATES, TOTAL, FIRST, parts, SIZE: tl.constexpr, K: tl.constexpr, KZ: tl.constexpr,
        BLOCK: tl.constexpr, REVERSE: tl.constexpr, HAS_FIRST: tl.constexpr, STAGES: tl.constexpr,
    ):  # fmt: skip
        """STATES [B H, parts, K, V]: as `decay_scan`, a decay for each row of a state."""
        row = tl.program_id(0).to(tl.int64)
        at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = at < SIZE
        base = STATES + row * parts * SIZE + at
        if HAS_FIRST:
            carry = tl.load(FIRST + row * SIZE + at, mask=inside, other=0.0)
        else:
            carry = tl.zeros([BLOCK], tl.float32)
        edge = parts - 1 if REVERSE else parts * 0
        tl.store(base + edge.to(tl.int64) * SIZE, carry, mask=inside)
        for step in tl.range(1, parts, num_stages=STAGES):
            part = parts - 1 - step if REVERSE else step
            past = part + 1 if REVERSE else part - 1
            totals = TOTAL + (row * parts + past) * K + at // KZ
            decay = tl.exp(tl.load(totals, mask=inside, other=0.0))
            spot = base + part.to(tl.int64) * SIZE
            carry = carry * decay + tl.load(spot, mask=inside, other=0.0)
            tl.store(spot, carry, mask=inside)

    @triton.jit(do_not_specialize=["T", "span", "parts"])
    def diagonal_read(
        Q, K, V, G, OUT, STATES, LAST, qb, qh, qt, kb, kh, kt, vb, vh, vt, gb, gh, gt, ob, oh, ot,
        H, T, span, parts, KQ: tl.constexpr, PQ: tl.constexpr, KV: tl.constexpr, BV: tl.constexpr,
        C: tl.constexpr, HAS_STATE: tl.constexpr, BOUND: tl.constexpr, DOT: tl.constexpr,
        PRECISION: tl.constexpr,
    ):  # fmt: skip
        """All outputs of a segment, and the last state."""
        pid = tl.num_programs(0) - 1 - tl.program_id(0)
        tiles = tl.cdiv(KV, BV)
        part = (pid // tiles) % parts
        row = (pid // tiles) // parts
        b, h = (row // H).to(tl.int64), (row % H).to(tl.int64)
        size = tl.full([], KQ * KV, tl.int64)
        diagonal_keys(
            Q + b * qb + h * qh, K + b * kb + h * kh, V + b * vb + h * vh, G + b * gb + h * gh,
            OUT + b * ob + h * oh, STATES + (row * size * parts + part * size), LAST + row * size,
            qt, kt, vt, gt, ot, part * span, tl.minimum(part * span + span, T), pid % tiles,
            part == parts - 1, KQ, PQ, KV, BV, C, False, HAS_STATE, BOUND, DOT, PRECISION,
        )  # fmt: skip

    @triton.jit(do_not_specialize=["T", "span", "parts"])
    def diagonal_grads(
        Q, K, V, DO, G, DQ, DK, DV, DOTS, STATES, DSTATES, DFIRST,
        qb, qh, qt, kb, kh, kt, vb, vh, vt, ob, oh, ot, gb, gh, gt,
        pb, ph, pt, rb, rh, rt, ub, uh, ut, H, T, span, parts,
        KQ: tl.constexpr, PQ: tl.constexpr, BK: tl.constexpr,
        KV: tl.constexpr, PV: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
        HAS_STATE: tl.constexpr, HAS_LATER: tl.constexpr,
        HAS_DOTS: tl.constexpr, STORE_FIRST: tl.constexpr,
        BOUND: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
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
        do, g = DO + b * ob + h * oh, G + b * gb + h * gh
        begin = part * span
        end = tl.minimum(begin + span, T)
        size = tl.full([], KQ * KV, tl.int64)
        state = STATES + (row * size * parts + part * size)
        later = DSTATES + (row * size * parts + part * size)
        dots = DOTS + row * tl.full([], 2 * KQ, tl.int64) * T
        if job < tiles_k:
            diagonal_values(
                do, v, k, q, g, DQ + b * pb + h * ph, dots, state, ot, vt, kt, qt, gt, pt,
                begin, end, job, 1.0, KV, PV, KQ, BK, C, False, HAS_STATE, HAS_DOTS,
                BOUND, DOT, PRECISION,
            )  # fmt: skip
        elif job < 2 * tiles_k:
            dots += tl.full([], KQ, tl.int64) * T
            diagonal_values(
                v, do, q, k, g, DK + b * rb + h * rh, dots, later, vt, ot, qt, kt, gt, rt,
                begin, end, job - tiles_k, -1.0, KV, PV, KQ, BK, C, True, HAS_LATER,
                HAS_DOTS, BOUND, DOT, PRECISION,
            )  # fmt: skip
        else:
            diagonal_keys(
                k, q, do, g, DV + b * ub + h * uh, later, DFIRST + row * size,
                kt, qt, ot, gt, ut, begin, end, job - 2 * tiles_k, STORE_FIRST & (part == 0),
                KQ, PQ, KV, BV, C, True, HAS_LATER, BOUND, DOT, PRECISION,
            )  # fmt: skip

    @triton.jit(do_not_specialize=["T", "span", "parts"])
    def diagonal_gate(
        DOTS, STATES, DSTATES, LAST, DLAST, DG, T, span, parts, K: tl.constexpr, BK: tl.constexpr,
        KV: tl.constexpr, BV: tl.constexpr, C: tl.constexpr, HAS_LAST: tl.constexpr,
    ):  # fmt: skip
        """dg [B H, T, K] from DOTS [B H, 2, T, K] and the states at the borders."""
        tiles = tl.cdiv(K, BK)
        row = (tl.program_id(0) // tiles // parts).to(tl.int64)
        part = (tl.program_id(0) // tiles) % parts
        ck = (tl.program_id(0) % tiles) * BK + tl.arange(0, BK)
        carry = tl.zeros([BK], tl.float32)
        size = K * KV
        for first in range(0, KV, BV):
            cv = first + tl.arange(0, BV)
            at = ck[:, None] * KV + cv[None, :]
            inside = (ck < K)[:, None] & (cv < KV)[None, :]
            if part < parts - 1:
                s = tl.load(STATES + (row * parts + part + 1) * size + at, mask=inside, other=0.0)
                d = tl.load(DSTATES + (row * parts + part) * size + at, mask=inside, other=0.0)
                carry += tl.sum(s * d, 1)
            elif HAS_LAST:
                s = tl.load(LAST + row * size + at, mask=inside, other=0.0)
                d = tl.load(DLAST + row * size + at, mask=inside, other=0.0)
                carry += tl.sum(s * d, 1)
        begin = part * span
        end = tl.minimum(begin + span, T)
        count = tl.cdiv(end - begin, C)
        for step in range(0, count):
            t = begin + (count - 1 - step) * C + tl.arange(0, C)
            inside = (t < end)[:, None] & (ck < K)[None, :]
            at = row * 2 * T * K + t[:, None] * K + ck[None, :]
            total = tl.load(DOTS + at, mask=inside, other=0.0)
            total += tl.load(DOTS + at + T.to(tl.int64) * K, mask=inside, other=0.0)
            sums = carry[None, :] + tl.cumsum(total, 0, reverse=True)
            at = row * T * K + t[:, None] * K + ck[None, :]
            tl.store(DG + at, sums, mask=inside)
            carry += tl.sum(total, 0)


DIAGONAL_JIT: tuple[Callable[..., Any], ...] = ()
if triton is not None:
    DIAGONAL_JIT = (
        diagonal_piece,
        diagonal_tile,
        diagonal_keys,
        diagonal_values,
        diagonal_sums,
        diagonal_scan,
        diagonal_read,
        diagonal_grads,
        diagonal_gate,
    )
