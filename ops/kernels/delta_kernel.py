"""Triton engine of the delta rule, with or without a decay, forward and backward.

    S_t = e^{g_t} (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,   o_t = S_t^T q_t

In a chunk of C = 64 tokens, with D, into = e^{G_i} and rest = e^{G_Cj} of `ops.kernels.chunked`:

    N = strictly_lower(diag(b) (K K^T * D)),   T = (I + N)^{-1}
    R = b * (V - into * K S),   F = T R                     (what each token really writes)
    O = into * Q S + P F,   P = Q K^T * D,   S <- e^{G_C} S + (rest * K)^T F

T comes from `ops.kernels.delta_solve_kernel`.

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
dS'), `delta_grads` (every chunk at once). Where rows are few the walks go over segments at once: a
segment maps its first state S to M S + A; PROBE walks give A (from zero) and M (from the identity,
with v = 0), `delta_scan` carries S over the segments (dS by M^T), and the walks start from there:
twice the work, as many times the programs as there are segments. Floors with E bytes an element:
forward E B H T (2 K + 2 V), backward E B H T (4 K + 3 V). Kept for backward: T, F and states, E B H
T (64 + V + K V / 64).
Sizes: 16-bit inputs, K and V up to 256, any T. No atomics: deterministic.
Papers: Yang et al. 2024, arXiv:2406.06484, eq. 8-11, and arXiv:2412.06464, section 3.3 (forward).
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

from ops.kernels.delta_solve_kernel import SOLVE_JIT

if triton is not None:
    from ops.kernels.chunked_kernel import decay_logs, decay_weights
    from ops.kernels.delta_solve_kernel import delta_half

    @triton.jit(do_not_specialize=["T", "chunks", "low", "run", "parts"])
    def delta_walk(
        Q, K, V, BETA, G, SOLVED, OUT, FRESH, STATES, FIRST, LAST, MOVES,
        qb, qh, qt, kb, kh, kt, vb, vh, vt, bb, bh, bt, gb, gh, ob, oh, ot,
        H, T, chunks, low, run, parts,
        KQ: tl.constexpr, PQ: tl.constexpr, KV: tl.constexpr, BV: tl.constexpr,
        GATED: tl.constexpr, HAS_FIRST: tl.constexpr, KEEP: tl.constexpr, PROBE: tl.constexpr,
        DOT: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """O and the last state of segments of `run` chunks, from FIRST [B H, parts, K, V].

        KEEP: F [B H, T, V] and STATES [B H, chunks, K, V] too. PROBE: instead A, to the place of
        the next segment in LAST [B H, parts, K, V], and M [B H, parts, K, K].
        """
        tiles_v = tl.cdiv(KV, BV)
        tiles = tiles_v + tl.cdiv(KQ, BV) if PROBE else tiles_v
        tile = tl.program_id(0) % tiles
        part = (tl.program_id(0) // tiles) % parts
        row = (tl.program_id(0) // tiles) // parts
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
        own = tile < tiles_v
        cv = tl.where(own, tile, tile - tiles_v) * BV + tl.arange(0, BV)
        place = ck[:, None] * KV + cv[None, :]
        inside = (ck < KQ)[:, None] & (cv < KV)[None, :]
        lower = i[:, None] >= i[None, :]
        if PROBE:
            state = tl.where((ck[:, None] == cv[None, :]) & (tile >= tiles_v), 1.0, 0.0)
        elif HAS_FIRST:
            source = FIRST + (row * parts + part) * KQ * KV + place
            state = tl.load(source, mask=inside, other=0.0)
        else:
            state = tl.zeros([PQ, BV], tl.float32)
        for chunk in range(part * run, tl.minimum(part * run + run, chunks)):
            start = tl.cast(chunk, tl.int64) * 64
            left = (T - start).to(tl.int32)
            live = (i < left)[:, None]
            at_k = live & (ck < KQ)[None, :] if KQ != PQ else live
            at_v = live & (cv < KV)[None, :] if KV % BV != 0 else live
            if PROBE:
                at_v = at_v & own
            k = tl.load(K + (start + i[:, None]) * kt + ck[None, :], mask=at_k, other=0.0)
            v = tl.load(V + (start + i[:, None]) * vt + cv[None, :], mask=at_v, other=0.0)
            at = SOLVED + (row * chunks + chunk) * 4096 + i[:, None] * 64 + i[None, :]
            solved = tl.load(at, mask=lower, other=0.0)
            beta = tl.load(BETA + (start + i) * bt, mask=i < left, other=0.0).to(tl.float32)
            _, reach, rest, whole = decay_weights(G, low, start, left, gamma, 64, GATED, False)
            narrow = state.to(DOT)
            known = tl.dot(k, narrow, input_precision=PRECISION)
            right = beta[:, None] * (v.to(tl.float32) - reach[:, None] * known)
            fresh = tl.dot(solved, right.to(DOT), input_precision=PRECISION)
            narrow_fresh = fresh.to(DOT)
            if not PROBE:
                for half in tl.static_range(2):
                    r, decay, into = delta_half(G, low, start, left, gamma, 32 * half, GATED, False)
                    there = (r < left)[:, None]
                    at = Q + (start + r[:, None]) * qt + ck[None, :]
                    q = tl.load(at, mask=there & (ck < KQ)[None, :], other=0.0)
                    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * decay
                    out = tl.dot(q, narrow, input_precision=PRECISION) * into[:, None]
                    out = tl.dot(scores.to(DOT), narrow_fresh, out, input_precision=PRECISION)
                    at = OUT + (start + r[:, None]) * ot + cv[None, :]
                    there = there & (cv < KV)[None, :]
                    tl.store(at, out.to(OUT.dtype.element_ty), mask=there)
            if KEEP:
                at = FRESH + (row * T + start + i[:, None]) * KV + cv[None, :]
                tl.store(at, fresh.to(FRESH.dtype.element_ty), mask=at_v)
                at = STATES + (row * chunks + chunk) * KQ * KV + place
                tl.store(at, state.to(STATES.dtype.element_ty), mask=inside)
            added = (fresh * rest[:, None]).to(DOT)
            state = state * whole + tl.dot(tl.trans(k), added, input_precision=PRECISION)
        if PROBE:
            if own:
                at = LAST + (row * parts + part + 1) * KQ * KV + place
                tl.store(at, state, mask=inside & (part < parts - 1))
            else:
                at = MOVES + (row * parts + part) * KQ * KQ + ck[:, None] * KQ + cv[None, :]
                tl.store(at, state, mask=(ck < KQ)[:, None] & (cv < KQ)[None, :])
        else:
            tl.store(LAST + row * KQ * KV + place, state, mask=inside & (part == parts - 1))

    @triton.jit(do_not_specialize=["T", "chunks", "low", "run", "parts"])
    def delta_back(
        Q, K, BETA, G, SOLVED, DO, RIGHT, DSTATES, DLAST, DFIRST,
        qb, qh, qt, kb, kh, kt, bb, bh, bt, gb, gh, ob, oh, ot,
        H, T, chunks, low, run, parts,
        KQ: tl.constexpr, PQ: tl.constexpr, KV: tl.constexpr, BV: tl.constexpr, GATED: tl.constexpr,
        HAS_LAST: tl.constexpr, STORE_FIRST: tl.constexpr, PROBE: tl.constexpr,
        DOT: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """Against time: dR [B H, T, V] to RIGHT and DSTATES [B H, chunks, K, V], dS' of each.

        From DLAST [B H, parts, K, V]. PROBE: what each segment but the first adds to dS from zero,
        to the place of the segment before in DFIRST [B H, parts, K, V].
        """
        tiles = tl.cdiv(KV, BV)
        count = parts - 1 if PROBE else parts
        part = (tl.program_id(0) // tiles) % count
        row = (tl.program_id(0) // tiles) // count
        if PROBE:
            part += 1
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
        if HAS_LAST:
            source = DLAST + (row * parts + part) * KQ * KV + place
            state = tl.load(source, mask=inside, other=0.0)
        else:
            state = tl.zeros([PQ, BV], tl.float32)
        end = tl.minimum(part * run + run, chunks)
        for step in range(0, end - part * run):
            chunk = end - 1 - step
            start = tl.cast(chunk, tl.int64) * 64
            left = (T - start).to(tl.int32)
            live = (i < left)[:, None]
            at_k = live & (ck < KQ)[None, :] if KQ != PQ else live
            at_v = live & (cv < KV)[None, :] if KV % BV != 0 else live
            k = tl.load(K + (start + i[:, None]) * kt + ck[None, :], mask=at_k, other=0.0)
            q = tl.load(Q + (start + i[:, None]) * qt + ck[None, :], mask=at_k, other=0.0)
            do = tl.load(DO + (start + i[:, None]) * ot + cv[None, :], mask=at_v, other=0.0)
            beta = tl.load(BETA + (start + i) * bt, mask=i < left, other=0.0).to(tl.float32)
            _, _, into, whole = decay_weights(G, low, start, left, gamma, 64, GATED, True)
            narrow = state.to(DOT)
            if not PROBE:
                at = DSTATES + (row * chunks + chunk) * KQ * KV + place
                tl.store(at, narrow.to(DSTATES.dtype.element_ty), mask=inside)
            right = tl.zeros([64, BV], tl.float32)
            for half in tl.static_range(2):
                r, flipped, rest_h = delta_half(G, low, start, left, gamma, 32 * half, GATED, True)
                at = K + (start + r[:, None]) * kt + ck[None, :]
                k_h = tl.load(at, mask=(r < left)[:, None] & (ck < KQ)[None, :], other=0.0)
                scores = tl.dot(k_h, tl.trans(q), input_precision=PRECISION) * flipped
                fresh = tl.dot(k_h, narrow, input_precision=PRECISION) * rest_h[:, None]
                fresh = tl.dot(scores.to(DOT), do, fresh, input_precision=PRECISION)
                at = SOLVED + (row * chunks + chunk) * 4096 + r[:, None] * 64 + i[None, :]
                solved = tl.load(at, mask=r[:, None] >= i[None, :], other=0.0)
                right = tl.dot(tl.trans(solved), fresh.to(DOT), right, input_precision=PRECISION)
            if not PROBE:
                at = RIGHT + (row * T + start + i[:, None]) * KV + cv[None, :]
                tl.store(at, right.to(RIGHT.dtype.element_ty), mask=at_v)
            shown = (do * into[:, None]).to(DOT)
            taken = (right * (-beta * into)[:, None]).to(DOT)
            state = state * whole + tl.dot(tl.trans(q), shown, input_precision=PRECISION)
            state = tl.dot(tl.trans(k), taken, state, input_precision=PRECISION)
        if PROBE:
            at = DFIRST + (row * parts + part - 1) * KQ * KV + place
            tl.store(at, state, mask=inside)
        elif STORE_FIRST:
            tl.store(DFIRST + row * KQ * KV + place, state, mask=inside & (part == 0))

    @triton.jit(do_not_specialize=["parts"])
    def delta_scan(
        STATES, MOVES, FIRST, parts, KQ: tl.constexpr, PQ: tl.constexpr, KV: tl.constexpr,
        BV: tl.constexpr, BK: tl.constexpr, REVERSE: tl.constexpr, HAS_FIRST: tl.constexpr,
    ):  # fmt: skip
        """STATES [B H, parts, K, V]: what each segment added becomes what each starts from.

        REVERSE: gradients, from the last segment to the first. FIRST [B H, K, V]: the border's.
        """
        tiles = tl.cdiv(KV, BV)
        row = (tl.program_id(0) // tiles).to(tl.int64)
        ck = tl.arange(0, PQ)
        cv = (tl.program_id(0) % tiles) * BV + tl.arange(0, BV)
        place = ck[:, None] * KV + cv[None, :]
        inside = (ck < KQ)[:, None] & (cv < KV)[None, :]
        if HAS_FIRST:
            carry = tl.load(FIRST + row * KQ * KV + place, mask=inside, other=0.0)
        else:
            carry = tl.zeros([PQ, BV], tl.float32)
        edge = parts - 1 if REVERSE else parts * 0
        tl.store(STATES + (row * parts + edge) * KQ * KV + place, carry, mask=inside)
        for step in range(1, parts):
            part = parts - 1 - step if REVERSE else step
            past = part + 1 if REVERSE else part - 1
            tl.debug_barrier()  # the state just written is read by other threads
            spot = STATES + (row * parts + part) * KQ * KV + place
            carry = tl.load(spot, mask=inside, other=0.0)
            for first in range(0, PQ, BK):
                cj = first + tl.arange(0, BK)
                at = MOVES + (row * parts + past) * KQ * KQ
                at += ck[:, None] + cj[None, :] * KQ if REVERSE else ck[:, None] * KQ + cj[None, :]
                move = tl.load(at, mask=(ck < KQ)[:, None] & (cj < KQ)[None, :], other=0.0)
                before = STATES + (row * parts + past) * KQ * KV + cj[:, None] * KV + cv[None, :]
                known = tl.load(before, mask=(cj < KQ)[:, None] & (cv < KV)[None, :], other=0.0)
                carry = tl.dot(move, known, carry, input_precision="tf32x3")
            tl.store(spot, carry, mask=inside)

    @triton.jit(do_not_specialize=["T", "chunks", "low"])
    def delta_grads(
        Q, K, V, BETA, G, DO, FRESH, RIGHT, STATES, DSTATES, SCRATCH, DQ, DK, DV, DBETA, DG,
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
        q = tl.load(Q + b * qb + h * qh + spot, mask=at_k, other=0.0)
        spot = (start + i[:, None]) * kt + ck[None, :]
        k = tl.load(K + b * kb + h * kh + spot, mask=at_k, other=0.0)
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
            do = tl.load(DO + b * ob + h * oh + spot_v, mask=at_v, other=0.0)
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
        # through memory, so that the left sides of the products are loaded ones (see `delta_half`)
        at = SCRATCH + (row * chunks + chunk) * 8192 + i[:, None] * 64 + i[None, :]
        tl.store(at, seen.to(DOT))
        tl.store(at + 4096, pairs.to(DOT))
        tl.debug_barrier()
        seen, pairs = tl.load(at), tl.load(at + 4096)
        dq = tl.dot(seen, k, read, input_precision=PRECISION)
        dk = tl.dot(tl.trans(seen), q, kept - lost, input_precision=PRECISION)
        dk = tl.dot(pairs, k, dk, input_precision=PRECISION)
        dk = tl.dot(tl.trans(pairs), k, dk, input_precision=PRECISION)
        spot = DQ + b * pb + h * ph + (start + i[:, None]) * pt + ck[None, :]
        tl.store(spot, dq.to(DQ.dtype.element_ty), mask=at_k)
        spot = DK + b * rb + h * rh + (start + i[:, None]) * rt + ck[None, :]
        tl.store(spot, dk.to(DK.dtype.element_ty), mask=at_k)


DELTA_JIT: tuple[Callable[..., Any], ...] = ()
if triton is not None:
    DELTA_JIT = (
        decay_logs,
        decay_weights,
        *SOLVE_JIT,
        delta_walk,
        delta_back,
        delta_scan,
        delta_grads,
    )
