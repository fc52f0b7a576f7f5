"""Triton engine of the delta rule, with or without a decay, forward and backward.

    S_t = e^{g_t} (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,   o_t = S_t^T q_t

In a chunk of C = 64 tokens, with D, into = e^{G_i} and rest = e^{G_Cj} of `ops.kernels.chunked`:

    N = strictly_lower(diag(b) (K K^T * D)),   T = (I + N)^{-1}
    R = b * (V - into * K S),   F = T R                     (what each token really writes)
    O = into * Q S + P F,   P = Q K^T * D,   S <- e^{G_C} S + (rest * K)^T F

T comes from four 16 x 16 blocks on the diagonal, by substitution of rows, and the six below them
from products, in fp32 (three tf32): a substitution by blocks, not a power series.

Backward, from dO and dS' (the gradient of the state after the chunk), X = dR S^T:

    dF = P^T dO + rest * K dS',   dR = T^T dF,   dV = b * dR
    dS = e^{G_C} dS' + (into * Q)^T dO - (b * into * K)^T dR
    dN = -dR F^T below the diagonal,   E = dN * b * D,   dP = dO F^T * D
    dQ = into * dO S^T + dP K
    dK = dP^T Q + (E + E^T) K + rest * F dS'^T - b * into * X
    db = sum_j dN * K K^T * D + sum_v dR * V - into * (k . X)
    dG_i = the terms above that hold into_i or row i of D, times what they multiply, less those
           that hold rest_i or column i;  dg_t = sum_{i>=t} dG_i + dG_C inside the chunk alone,
           as dS' holds all that is later.

Passes: `delta_solve` (T, every chunk at once), `delta_walk` (along the sequence: O, F and each
chunk's first state, the latter two for backward), `delta_back` (against it: dR and each chunk's
dS'), `delta_grads` (every chunk at once). Floors with E bytes an element: forward E B H T (2 K +
2 V), backward E B H T (4 K + 3 V). Kept for backward: T, F and states, E B H T (64 + V + K V / 64).
Sizes: K up to 128, V up to 256, any T. No atomics: deterministic.
Papers: Yang et al. 2024, arXiv:2406.06484, eq. 8-11; Yang et al. 2024, arXiv:2412.06464, section
3.3 (the forward pass; the gradients are worked out here).
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
    from ops.kernels.chunked_kernel import decay_logs, decay_weights

    @triton.jit
    def delta_rows(
        K, BETA, G, kt, bt, low, chunk, first, end, gamma,
        K_WIDTH: tl.constexpr, P: tl.constexpr, GATED: tl.constexpr, DOT: tl.constexpr,
    ):  # fmt: skip
        """Of 16 tokens from the `first` of a chunk: k, b and the logs of `decay_logs`."""
        i = tl.arange(0, 16)
        start = chunk + first
        c = tl.arange(0, P)
        live = start + i < end
        inside = live[:, None] & (c < K_WIDTH)[None, :]
        k = tl.load(K + (start + i[:, None]) * kt + c[None, :], mask=inside, other=0.0).to(DOT)
        beta = tl.load(BETA + (start + i) * bt, mask=live, other=0.0).to(tl.float32)
        if GATED:
            high = tl.load(G + start + i, mask=live, other=-1e30)
            lost = tl.load(G + low + start + i, mask=live, other=0.0)
        else:
            high = (first + i).to(tl.float32) * gamma
            lost = tl.zeros([16], tl.float32)
        return k, beta, high, lost

    @triton.jit
    def delta_pair(ka, kb, beta, ha, hb, la, lb, PRECISION: tl.constexpr):
        """A block of N below the diagonal; tokens that are not there have k = 0."""
        scores = tl.dot(ka, tl.trans(kb), input_precision=PRECISION)
        gaps = (ha[:, None] - hb[None, :]) + (la[:, None] - lb[None, :])
        return scores * tl.exp(tl.where(gaps < 0.0, gaps, 0.0)) * beta[:, None]

    @triton.jit
    def delta_inverse(k, beta, high, lost, PRECISION: tl.constexpr):
        """(I + N)^{-1} of a block on the diagonal, row after row."""
        i = tl.arange(0, 16)
        below = i[:, None] > i[None, :]
        scores = tl.dot(k, tl.trans(k), input_precision=PRECISION)
        gaps = (high[:, None] - high[None, :]) + (lost[:, None] - lost[None, :])
        decay = tl.exp(tl.where(below & (gaps <= 0.0), gaps, float("-inf")))
        n = scores * decay * beta[:, None]
        done = tl.where(i[:, None] == i[None, :], 1.0, 0.0)
        for r in range(1, 16):
            row = tl.sum(tl.where((i == r)[:, None], n, 0.0), 0)
            known = tl.sum(row[:, None] * done, 0)
            done -= tl.where((i == r)[:, None], known[None, :], 0.0)
        return done

    @triton.jit
    def delta_product(a, b):
        return tl.dot(a, b, input_precision="tf32x3")

    @triton.jit(do_not_specialize=["T", "chunks", "low"])
    def delta_solve(
        K, BETA, G, SOLVED, kb, kh, kt, bb, bh, bt, gb, gh, H, T, chunks, low,
        KQ: tl.constexpr, P: tl.constexpr, GATED: tl.constexpr, DOT: tl.constexpr,
        PRECISION: tl.constexpr,
    ):  # fmt: skip
        """SOLVED [B H, chunks, 64, 64]: T of every chunk; above the diagonal blocks not written."""
        row = tl.program_id(0) // chunks
        chunk = tl.program_id(0) % chunks
        b, h = (row // H).to(tl.int64), (row % H).to(tl.int64)
        K += b * kb + h * kh
        BETA += b * bb + h * bh
        G += b * gb + h * gh
        gamma = 0.0
        if not GATED:
            gamma = tl.maximum(tl.load(G).to(tl.float32), -1000.0)
        s = (chunk * 64).to(tl.int64)
        k0, b0, h0, l0 = delta_rows(
            K, BETA, G, kt, bt, low, s, 0, T, gamma, KQ, P, GATED, DOT
        )  # fmt: skip
        k1, b1, h1, l1 = delta_rows(
            K, BETA, G, kt, bt, low, s, 16, T, gamma, KQ, P, GATED, DOT
        )  # fmt: skip
        k2, b2, h2, l2 = delta_rows(
            K, BETA, G, kt, bt, low, s, 32, T, gamma, KQ, P, GATED, DOT
        )  # fmt: skip
        k3, b3, h3, l3 = delta_rows(
            K, BETA, G, kt, bt, low, s, 48, T, gamma, KQ, P, GATED, DOT
        )  # fmt: skip
        t0 = delta_inverse(k0, b0, h0, l0, PRECISION)
        t1 = delta_inverse(k1, b1, h1, l1, PRECISION)
        t2 = delta_inverse(k2, b2, h2, l2, PRECISION)
        t3 = delta_inverse(k3, b3, h3, l3, PRECISION)
        n10 = delta_pair(k1, k0, b1, h1, h0, l1, l0, PRECISION)
        n21 = delta_pair(k2, k1, b2, h2, h1, l2, l1, PRECISION)
        n32 = delta_pair(k3, k2, b3, h3, h2, l3, l2, PRECISION)
        n20 = delta_pair(k2, k0, b2, h2, h0, l2, l0, PRECISION)
        n31 = delta_pair(k3, k1, b3, h3, h1, l3, l1, PRECISION)
        n30 = delta_pair(k3, k0, b3, h3, h0, l3, l0, PRECISION)
        t10 = -delta_product(t1, delta_product(n10, t0))
        t21 = -delta_product(t2, delta_product(n21, t1))
        t32 = -delta_product(t3, delta_product(n32, t2))
        t20 = -delta_product(t2, delta_product(n20, t0) + delta_product(n21, t10))
        t31 = -delta_product(t3, delta_product(n31, t1) + delta_product(n32, t21))
        t30 = delta_product(n30, t0) + delta_product(n31, t10) + delta_product(n32, t20)
        t30 = -delta_product(t3, t30)
        i = tl.arange(0, 16)
        at = SOLVED + (row.to(tl.int64) * chunks + chunk) * 4096 + i[:, None] * 64 + i[None, :]
        kind = SOLVED.dtype.element_ty
        tl.store(at, t0.to(kind))
        tl.store(at + 1024, t10.to(kind))
        tl.store(at + 1040, t1.to(kind))
        tl.store(at + 2048, t20.to(kind))
        tl.store(at + 2064, t21.to(kind))
        tl.store(at + 2080, t2.to(kind))
        tl.store(at + 3072, t30.to(kind))
        tl.store(at + 3088, t31.to(kind))
        tl.store(at + 3104, t32.to(kind))
        tl.store(at + 3120, t3.to(kind))

    @triton.jit(do_not_specialize=["T", "chunks", "low"])
    def delta_walk(
        Q, K, V, BETA, G, SOLVED, OUT, FRESH, STATES, FIRST, LAST,
        qb, qh, qt, kb, kh, kt, vb, vh, vt, bb, bh, bt, gb, gh, ob, oh, ot, H, T, chunks, low,
        KQ: tl.constexpr, PQ: tl.constexpr, KV: tl.constexpr, BV: tl.constexpr,
        GATED: tl.constexpr, HAS_FIRST: tl.constexpr, KEEP: tl.constexpr,
        DOT: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """O and the last state; KEEP: F [B H, T, V] and STATES [B H, chunks, K, V] too."""
        tiles = tl.cdiv(KV, BV)
        row = tl.program_id(0) // tiles
        b, h = (row // H).to(tl.int64), (row % H).to(tl.int64)
        row = row.to(tl.int64)
        Q += b * qb + h * qh
        K += b * kb + h * kh
        V += b * vb + h * vh
        BETA += b * bb + h * bh
        G += b * gb + h * gh
        OUT += b * ob + h * oh
        gamma = 0.0
        if not GATED:
            gamma = tl.maximum(tl.load(G).to(tl.float32), -1000.0)
        i = tl.arange(0, 64)
        ck = tl.arange(0, PQ)
        cv = (tl.program_id(0) % tiles) * BV + tl.arange(0, BV)
        place = ck[:, None] * KV + cv[None, :]
        inside = (ck < KQ)[:, None] & (cv < KV)[None, :]
        lower = i[:, None] >= i[None, :]
        if HAS_FIRST:
            state = tl.load(FIRST + row * KQ * KV + place, mask=inside, other=0.0)
        else:
            state = tl.zeros([PQ, BV], tl.float32)
        for chunk in range(0, chunks):
            start = tl.cast(chunk, tl.int64) * 64
            left = (T - start).to(tl.int32)
            live = (i < left)[:, None]
            at_k = live & (ck < KQ)[None, :] if KQ != PQ else live
            at_v = live & (cv < KV)[None, :] if KV % BV != 0 else live
            k = tl.load(K + (start + i[:, None]) * kt + ck[None, :], mask=at_k, other=0.0).to(DOT)
            v = tl.load(V + (start + i[:, None]) * vt + cv[None, :], mask=at_v, other=0.0)
            at = SOLVED + (row * chunks + chunk) * 4096 + i[:, None] * 64 + i[None, :]
            solved = tl.load(at, mask=lower, other=0.0)
            q = tl.load(Q + (start + i[:, None]) * qt + ck[None, :], mask=at_k, other=0.0).to(DOT)
            beta = tl.load(BETA + (start + i) * bt, mask=i < left, other=0.0).to(tl.float32)
            decay, into, rest, whole = decay_weights(G, low, start, left, gamma, 64, GATED, False)
            narrow = state.to(DOT)
            known = tl.dot(k, narrow, input_precision=PRECISION)
            right = beta[:, None] * (v.to(tl.float32) - into[:, None] * known)
            fresh = tl.dot(solved, right.to(DOT), input_precision=PRECISION)
            scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * decay
            out = tl.dot(q, narrow, input_precision=PRECISION) * into[:, None]
            out = tl.dot(scores.to(DOT), fresh.to(DOT), out, input_precision=PRECISION)
            added = (fresh * rest[:, None]).to(DOT)
            if KEEP:
                at = FRESH + (row * T + start + i[:, None]) * KV + cv[None, :]
                tl.store(at, fresh.to(FRESH.dtype.element_ty), mask=at_v)
                at = STATES + (row * chunks + chunk) * KQ * KV + place
                tl.store(at, state.to(STATES.dtype.element_ty), mask=inside)
            state = state * whole + tl.dot(tl.trans(k), added, input_precision=PRECISION)
            at = OUT + (start + i[:, None]) * ot + cv[None, :]
            tl.store(at, out.to(OUT.dtype.element_ty), mask=at_v)
        tl.store(LAST + row * KQ * KV + place, state, mask=inside)

    @triton.jit(do_not_specialize=["T", "chunks", "low"])
    def delta_back(
        Q, K, BETA, G, SOLVED, DO, RIGHT, DSTATES, DLAST, DFIRST,
        qb, qh, qt, kb, kh, kt, bb, bh, bt, gb, gh, ob, oh, ot, H, T, chunks, low,
        KQ: tl.constexpr, PQ: tl.constexpr, KV: tl.constexpr, BV: tl.constexpr,
        GATED: tl.constexpr, HAS_LAST: tl.constexpr, STORE_FIRST: tl.constexpr,
        DOT: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """Against time: dR [B H, T, V] to RIGHT and DSTATES [B H, chunks, K, V], dS' of each."""
        tiles = tl.cdiv(KV, BV)
        row = tl.program_id(0) // tiles
        b, h = (row // H).to(tl.int64), (row % H).to(tl.int64)
        row = row.to(tl.int64)
        Q += b * qb + h * qh
        K += b * kb + h * kh
        BETA += b * bb + h * bh
        G += b * gb + h * gh
        DO += b * ob + h * oh
        gamma = 0.0
        if not GATED:
            gamma = tl.maximum(tl.load(G).to(tl.float32), -1000.0)
        i = tl.arange(0, 64)
        ck = tl.arange(0, PQ)
        cv = (tl.program_id(0) % tiles) * BV + tl.arange(0, BV)
        place = ck[:, None] * KV + cv[None, :]
        inside = (ck < KQ)[:, None] & (cv < KV)[None, :]
        lower = i[:, None] >= i[None, :]
        if HAS_LAST:
            state = tl.load(DLAST + row * KQ * KV + place, mask=inside, other=0.0)
        else:
            state = tl.zeros([PQ, BV], tl.float32)
        for step in range(0, chunks):
            chunk = chunks - 1 - step
            start = tl.cast(chunk, tl.int64) * 64
            left = (T - start).to(tl.int32)
            live = (i < left)[:, None]
            at_k = live & (ck < KQ)[None, :] if KQ != PQ else live
            at_v = live & (cv < KV)[None, :] if KV % BV != 0 else live
            k = tl.load(K + (start + i[:, None]) * kt + ck[None, :], mask=at_k, other=0.0).to(DOT)
            q = tl.load(Q + (start + i[:, None]) * qt + ck[None, :], mask=at_k, other=0.0).to(DOT)
            do = tl.load(DO + (start + i[:, None]) * ot + cv[None, :], mask=at_v, other=0.0)
            do = do.to(DOT)
            at = SOLVED + (row * chunks + chunk) * 4096 + i[:, None] * 64 + i[None, :]
            solved = tl.load(at, mask=lower, other=0.0)
            beta = tl.load(BETA + (start + i) * bt, mask=i < left, other=0.0).to(tl.float32)
            flipped, rest, into, whole = decay_weights(G, low, start, left, gamma, 64, GATED, True)
            narrow = state.to(DOT)
            at = DSTATES + (row * chunks + chunk) * KQ * KV + place
            tl.store(at, narrow.to(DSTATES.dtype.element_ty), mask=inside)
            scores = tl.dot(k, tl.trans(q), input_precision=PRECISION) * flipped
            fresh = tl.dot(k, narrow, input_precision=PRECISION) * rest[:, None]
            fresh = tl.dot(scores.to(DOT), do, fresh, input_precision=PRECISION)
            right = tl.dot(tl.trans(solved), fresh.to(DOT), input_precision=PRECISION)
            at = RIGHT + (row * T + start + i[:, None]) * KV + cv[None, :]
            tl.store(at, right.to(RIGHT.dtype.element_ty), mask=at_v)
            shown = (do * into[:, None]).to(DOT)
            taken = (right * (-beta * into)[:, None]).to(DOT)
            state = state * whole + tl.dot(tl.trans(q), shown, input_precision=PRECISION)
            state = tl.dot(tl.trans(k), taken, state, input_precision=PRECISION)
        if STORE_FIRST:
            tl.store(DFIRST + row * KQ * KV + place, state, mask=inside)

    @triton.jit(do_not_specialize=["T", "chunks", "low"])
    def delta_grads(
        Q, K, V, BETA, G, DO, FRESH, RIGHT, STATES, DSTATES, DQ, DK, DV, DBETA, DG,
        qb, qh, qt, kb, kh, kt, vb, vh, vt, bb, bh, bt, gb, gh, ob, oh, ot,
        pb, ph, pt, rb, rh, rt, ub, uh, ut, H, T, chunks, low,
        KQ: tl.constexpr, PQ: tl.constexpr, KV: tl.constexpr, BV: tl.constexpr,
        GATED: tl.constexpr, HAS_GATE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """dq, dk, dv, db [B H, T] and, HAS_GATE, dg [B H, T] of one chunk."""
        row = (tl.program_id(0) // chunks).to(tl.int64)
        chunk = (tl.program_id(0) % chunks).to(tl.int64)
        b, h = row // H, row % H
        start = chunk * 64
        left = (T - start).to(tl.int32)
        i = tl.arange(0, 64)
        ck = tl.arange(0, PQ)
        live = (i < left)[:, None]
        at_k = live & (ck < KQ)[None, :]
        spot = (start + i[:, None]) * qt + ck[None, :]
        q = tl.load(Q + b * qb + h * qh + spot, mask=at_k, other=0.0).to(DOT)
        spot = (start + i[:, None]) * kt + ck[None, :]
        k = tl.load(K + b * kb + h * kh + spot, mask=at_k, other=0.0).to(DOT)
        spot = BETA + b * bb + h * bh + (start + i) * bt
        beta = tl.load(spot, mask=i < left, other=0.0).to(tl.float32)
        G += b * gb + h * gh
        gamma = 0.0
        if not GATED:
            gamma = tl.maximum(tl.load(G).to(tl.float32), -1000.0)
        decay, into, rest, whole = decay_weights(G, low, start, left, gamma, 64, GATED, False)
        seen = tl.zeros([64, 64], tl.float32)
        solved = tl.zeros([64, 64], tl.float32)
        read = tl.zeros([64, PQ], tl.float32)
        kept = tl.zeros([64, PQ], tl.float32)
        lost = tl.zeros([64, PQ], tl.float32)
        dbeta = tl.zeros([64], tl.float32)
        carried = tl.zeros([PQ], tl.float32)
        for first in range(0, KV, BV):
            cv = first + tl.arange(0, BV)
            at_v = live & (cv < KV)[None, :]
            spot_v = (start + i[:, None]) * ot + cv[None, :]
            do = tl.load(DO + b * ob + h * oh + spot_v, mask=at_v, other=0.0).to(DOT)
            spot_v = (start + i[:, None]) * vt + cv[None, :]
            v = tl.load(V + b * vb + h * vh + spot_v, mask=at_v, other=0.0).to(tl.float32)
            spot_v = (row * T + start + i[:, None]) * KV + cv[None, :]
            fresh = tl.load(FRESH + spot_v, mask=at_v, other=0.0)
            right = tl.load(RIGHT + spot_v, mask=at_v, other=0.0)
            place = (row * chunks + chunk) * KQ * KV + ck[:, None] * KV + cv[None, :]
            inside = (ck < KQ)[:, None] & (cv < KV)[None, :]
            state = tl.load(STATES + place, mask=inside, other=0.0)
            later = tl.load(DSTATES + place, mask=inside, other=0.0)
            seen = tl.dot(do, tl.trans(fresh), seen, input_precision=PRECISION)
            solved = tl.dot(right, tl.trans(fresh), solved, input_precision=PRECISION)
            read = tl.dot(do, tl.trans(state), read, input_precision=PRECISION)
            kept = tl.dot(fresh, tl.trans(later), kept, input_precision=PRECISION)
            lost = tl.dot(right, tl.trans(state), lost, input_precision=PRECISION)
            wide = right.to(tl.float32)
            dbeta += tl.sum(wide * v, 1)
            carried += tl.sum(state.to(tl.float32) * later.to(tl.float32), 1)
            spot_v = DV + b * ub + h * uh + (start + i[:, None]) * ut + cv[None, :]
            tl.store(spot_v, (wide * beta[:, None]).to(DV.dtype.element_ty), mask=at_v)
        strict = i[:, None] > i[None, :]
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        alike = tl.dot(k, tl.trans(k), input_precision=PRECISION)
        seen *= decay
        solved = tl.where(strict, -solved * decay, 0.0)
        pairs = solved * beta[:, None]
        q32, k32 = q.to(tl.float32), k.to(tl.float32)
        read *= into[:, None]
        kept *= rest[:, None]
        lost *= into[:, None]
        dbeta += tl.sum(solved * alike, 1) - tl.sum(k32 * lost, 1)
        lost *= beta[:, None]
        at = row * T + start + i
        tl.store(DBETA + at, dbeta, mask=i < left)
        if HAS_GATE:
            terms = seen * scores + pairs * alike
            rows = tl.sum(q32 * read, 1) - tl.sum(k32 * lost, 1) + tl.sum(terms, 1)
            last = tl.sum(k32 * kept, 1)
            rows -= last
            rows -= tl.sum(terms, 0)  # the same products: the diagonal's cancel
            total = tl.sum(last, 0) + whole * tl.sum(carried, 0)
            sums = tl.cumsum(rows, 0, reverse=True) + total
            tl.store(DG + at, sums, mask=i < left)
        dq = tl.dot(seen.to(DOT), k, read, input_precision=PRECISION)
        dk = tl.dot(tl.trans(seen.to(DOT)), q, kept - lost, input_precision=PRECISION)
        dk = tl.dot(pairs.to(DOT), k, dk, input_precision=PRECISION)
        dk = tl.dot(tl.trans(pairs.to(DOT)), k, dk, input_precision=PRECISION)
        spot = DQ + b * pb + h * ph + (start + i[:, None]) * pt + ck[None, :]
        tl.store(spot, dq.to(DQ.dtype.element_ty), mask=at_k)
        spot = DK + b * rb + h * rh + (start + i[:, None]) * rt + ck[None, :]
        tl.store(spot, dk.to(DK.dtype.element_ty), mask=at_k)


DELTA_JIT: tuple[Callable[..., Any], ...] = ()
if triton is not None:
    DELTA_JIT = (
        decay_logs,
        decay_weights,
        delta_rows,
        delta_pair,
        delta_inverse,
        delta_product,
        delta_solve,
        delta_walk,
        delta_back,
        delta_grads,
    )
