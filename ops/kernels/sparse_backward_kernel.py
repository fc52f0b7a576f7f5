"""Triton backward pass of sparse softmax attention: dq by query blocks, dk and dv by key blocks.

    p_ij = exp(z_ij - lse_i),  delta_i = o_i . do_i - dlse_i
    ds_ij = p_ij (do_i . v_j - delta_i) z'
    dq_i = scale sum_j ds_ij k_j,  dk_j = scale sum_i ds_ij q_i,  dv_j = sum_i p_ij do_i
    dsink_h = -sum_i exp(sink_h - lse_i) delta_i;  z' = 1 - (z / cap)^2 where a cap bends, else 1

Scores are computed anew, once in each kernel (7 matrix products in all where 5 are needed, and no
atomic addition: equal inputs give equal bits). `sparse_queries` also makes delta, which
`sparse_keys` reads. A program of `sparse_keys` has N keys of one kv head and walks tiles of M
queries, over the heads that share these keys. The few first keys that all later queries see
(`head`) would keep one program busy for the whole sequence: `sparse_far_keys` splits their far
queries into chunks, whose sums `sparse_keys` adds. Notation and tiles as in `sparse_kernel`.
Floors: 10 D FLOPs a seen pair; bytes of q, k, v, o, do read and dq, dk, dv written.
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
    from ops.kernels.sparse_kernel import (
        sparse_bounds,
        sparse_key_tiles,
        sparse_listed,
        sparse_logits,
        sparse_partial,
        sparse_place,
        sparse_rows,
        sparse_sees,
        sparse_store,
        sparse_turn,
        sparse_whole,
    )

    @triton.jit
    def sparse_weights(
        s, i, j, j0, lo, hi, lse, where, seen_by, logit, partial, flags: tl.constexpr
    ):  # fmt: skip
        """(p, z') of scores s; lse in units of log 2, +inf in a row that sees nothing."""
        n, r, step = where[2], where[3], where[4]
        z, c = sparse_logits(s, i, j, step, logit[0], logit[1], logit[2], flags[3], flags[4])
        p = tl.exp2(z * c - lse)
        if partial:
            seen = sparse_sees(
                i, j, j0, n, lo, hi, seen_by[0], r, step, seen_by[1], seen_by[2], seen_by[3],
                seen_by[4], flags[0], flags[1], flags[2], flags[6],
            )  # fmt: skip
            p = tl.where(seen, p, 0.0)
        bend = 1.0
        if flags[3]:
            bend = 1.0 - (z / logit[1]) * (z / logit[1])
        return p, bend

    @triton.jit
    def sparse_queries_tile(
        dq, q, do, lse, delta, i, rows, place, K, V, k_at, v_at, where, seen_by, logit, partial,
        flags: tl.constexpr, D: tl.constexpr, N: tl.constexpr, WIDE: tl.constexpr,
        MASK: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """dq of M queries with what one tile of keys adds."""
        start, end = place
        b, h, n, r, step = where
        k = sparse_rows(K, k_at, b, h, start, n, r, step, D, N, WIDE, MASK)
        v = sparse_rows(V, v_at, b, h, start, n, r, step, D, N, WIDE, MASK)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        dp = tl.dot(do, tl.trans(v), input_precision=PRECISION)
        j = start + tl.arange(0, N)[None, :]
        hi = tl.minimum(rows[1], end)
        p, bend = sparse_weights(
            s, i, j, start, rows[0], hi, lse, where, seen_by, logit, partial, flags
        )
        ds = p * (dp - delta) * bend
        return tl.dot(ds.to(q.dtype), k, dq, input_precision=PRECISION)

    @triton.jit(do_not_specialize=["sizes", "band"])
    def sparse_queries(
        Q, K, V, Out, dOut, dQ, Lse, dLse, Delta, q_at, k_at, v_at, o_at, do_at, dq_at, sizes, band,
        Bounds, Spans, Counts, Index, Segment, Table, plan_at, Real, Slopes, scale, cap,
        flags: tl.constexpr, DILATED: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr,
        M: tl.constexpr, N: tl.constexpr, PART: tl.constexpr, LOOPS: tl.constexpr,
        LAST_FIRST: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """delta and dq of M queries of one head."""
        heads, group, length = sizes[0], sizes[1], sizes[2]
        step = sizes[3] if DILATED else 1
        m0, n, r, b, h = sparse_turn(tl.program_id(0), heads, length, step, M, LAST_FIRST)
        head = band[4]
        if Bounds is not None:
            Bounds += b * plan_at[0]
            head = tl.load(Spans + b * plan_at[1])
        if Real is not None:
            Real += b.to(tl.int64) * length
        if Table is not None:
            Table += b.to(tl.int64) * plan_at[9] + h.to(tl.int64) * plan_at[6]
        i = m0 + tl.arange(0, M)
        lo, hi = sparse_bounds(i, n, band, Bounds)
        if PART > 0:
            row = m0 // PART
            Index += b * plan_at[4] + h * plan_at[5] + row * plan_at[8]
            stretch = (0, n, 0, 0, 0)
            Counts += b * plan_at[2] + h * plan_at[3] + row * 2
            count = sparse_listed(Counts, PART // N)
        else:
            stretch, count = sparse_key_tiles(m0, n, lo, hi, band, head, Bounds, flags[1], M, N)
        slope = 0.0
        if Slopes is not None:
            slope = tl.load(Slopes + h).to(tl.float32)
        q = sparse_rows(Q, q_at, b, h, m0, n, r, step, D, M, WIDE, True)
        do = sparse_rows(dOut, do_at, b, h, m0, n, r, step, D, M, WIDE, True)
        o = sparse_rows(Out, o_at, b, h, m0, n, r, step, D, M, WIDE, True)
        at = (b.to(tl.int64) * heads + h) * length + i.to(tl.int64) * step + r
        lse = tl.load(Lse + at, mask=i < n, other=float("-inf")) * 1.4426950408889634
        lse = tl.where(lse == float("-inf"), float("inf"), lse)
        delta = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
        if dLse is not None:
            delta -= tl.load(dLse + at, mask=i < n, other=0.0)
        tl.store(Delta + at, delta, mask=i < n)
        dq = tl.zeros([M, WIDE], tl.float32)
        rows = (lo[:, None], hi[:, None])
        where = (b, h // group, n, r, step)
        seen_by = (head, Real, Segment, Table, plan_at[7])
        logit = (scale, cap, slope)
        wholes = count[0] + count[2] - count[1]
        if LOOPS == "split":
            for u in range(0, wholes):
                place = sparse_place(sparse_whole(u, count), stretch, Index, N, PART // N)
                dq = sparse_queries_tile(
                    dq, q, do, lse[:, None], delta[:, None], i[:, None], rows, place, K, V, k_at,
                    v_at, where, seen_by, logit, False, flags, D, N, WIDE, False, PRECISION,
                )  # fmt: skip
            for u in range(0, count[3] - wholes):
                place = sparse_place(sparse_partial(u, count), stretch, Index, N, PART // N)
                dq = sparse_queries_tile(
                    dq, q, do, lse[:, None], delta[:, None], i[:, None], rows, place, K, V, k_at,
                    v_at, where, seen_by, logit, True, flags, D, N, WIDE, True, PRECISION,
                )  # fmt: skip
        else:
            for t in range(0, count[3]):
                partial = True
                if LOOPS == "branch":
                    partial = (t >= count[0]) & ((t < count[1]) | (t >= count[2]))
                dq = sparse_queries_tile(
                    dq, q, do, lse[:, None], delta[:, None], i[:, None], rows,
                    sparse_place(t, stretch, Index, N, PART // N), K, V, k_at, v_at, where, seen_by,
                    logit, partial, flags, D, N, WIDE, True, PRECISION,
                )  # fmt: skip
        sparse_store(dQ, dq * scale, dq_at, b, h, m0, n, r, step, D, M, WIDE)

    @triton.jit
    def sparse_query_tiles(
        n0, n, band, head, Bounds, Span, flags: tl.constexpr, M: tl.constexpr, N: tl.constexpr
    ):
        """The query tiles of keys n0.. : (first, stop, x0, x1, lead), (whole, full, rest, total).

        Tiles t < lead cover queries [x0, x1), the others [first, stop); t < whole and full <= t <
        rest see all of these keys.
        """
        n1 = tl.minimum(n0 + N, n) - 1
        if Bounds is not None:
            j = tl.minimum(n0 + tl.arange(0, N), n - 1)
            begin, finish = tl.load(Bounds + 2 * n + j), tl.load(Bounds + 3 * n + j)
            first, most = tl.min(begin, 0), tl.max(begin, 0)
            least, stop = tl.min(finish, 0), tl.max(finish, 0)
            x0, x1, upto = tl.load(Span + 1), tl.load(Span + 2), tl.load(Span + 3)
        else:
            first = tl.where(n0 < band[2], 0, tl.maximum(n0 - band[1], 0))
            most = tl.where(n1 < band[2], 0, tl.maximum(n1 - band[1], 0))
            past = tl.minimum(tl.maximum(n0, head) + band[0] + 1, n)
            least = tl.where(n1 < head, n, past)
            stop = tl.where(n0 < head, n, tl.minimum(n1 + band[0] + 1, n))
            x0, x1, upto = 0, tl.minimum(band[3], n), n
        lead = 0
        whole = 0
        if flags[5]:
            before = x0 < first
            x1 = tl.where(before, tl.minimum(x1, first), x1)
            x0 = tl.where(before, x0, tl.maximum(x0, stop))
            lead = tl.cdiv(tl.maximum(x1 - x0, 0), M)
            whole = tl.where(n1 < upto, tl.maximum(x1 - x0, 0) // M, 0)
        total = lead + tl.cdiv(tl.maximum(stop - first, 0), M)
        full = tl.minimum(lead + tl.cdiv(tl.maximum(most - first, 0), M), total)
        rest = tl.maximum(lead + tl.maximum(least - first, 0) // M, full)
        return (first, stop, x0, x1, lead), (whole, full, rest, total)

    @triton.jit
    def sparse_keys_tile(
        grads, k, v, j, j0, place, Q, dOut, q_at, do_at, Lse, Delta, Bounds, band, where, h,
        seen_by, logit, partial, flags: tl.constexpr, D: tl.constexpr, M: tl.constexpr,
        WIDE: tl.constexpr, MASK: tl.constexpr, TURNED: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """(dk, dv) of N keys with what one tile of queries of head h adds. TURNED: scores have a
        row for a query, and p and ds are transposed in shared memory, which saves registers."""
        dk, dv = grads
        start, end = place
        b, _, n, r, step = where
        i = start + tl.arange(0, M)
        at = i.to(tl.int64) * step + r
        if MASK:
            lse = tl.load(Lse + at, mask=i < end, other=float("-inf")) * 1.4426950408889634
            delta = tl.load(Delta + at, mask=i < end, other=0.0)
        else:
            lse = tl.load(Lse + at) * 1.4426950408889634
            delta = tl.load(Delta + at)
        lse = tl.where(lse == float("-inf"), float("inf"), lse)
        q = sparse_rows(Q, q_at, b, h, start, n, r, step, D, M, WIDE, MASK)
        do = sparse_rows(dOut, do_at, b, h, start, n, r, step, D, M, WIDE, MASK)
        if TURNED:
            s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
            i, lse, delta = i[:, None], lse[:, None], delta[:, None]
        else:
            s = tl.dot(k, tl.trans(q), input_precision=PRECISION)
            i, lse, delta = i[None, :], lse[None, :], delta[None, :]
        lo = 0
        hi = 0
        if MASK:
            lo, hi = sparse_bounds(i, n, band, Bounds)
        p, bend = sparse_weights(s, i, j, j0, lo, hi, lse, where, seen_by, logit, partial, flags)
        if TURNED:
            dv = tl.dot(tl.trans(p.to(q.dtype)), do, dv, input_precision=PRECISION)
            dp = tl.dot(do, tl.trans(v), input_precision=PRECISION)
            ds = tl.trans((p * (dp - delta) * bend).to(q.dtype))
        else:
            dv = tl.dot(p.to(q.dtype), do, dv, input_precision=PRECISION)
            dp = tl.dot(v, tl.trans(do), input_precision=PRECISION)
            ds = (p * (dp - delta) * bend).to(q.dtype)
        return tl.dot(ds, q, dk, input_precision=PRECISION), dv

    @triton.jit(do_not_specialize=["sizes", "band", "far"])
    def sparse_far_keys(
        Q, K, V, dOut, Far, Lse, Delta, q_at, k_at, v_at, do_at, sizes, band, far, Real, Slopes,
        scale, cap, flags: tl.constexpr, DILATED: tl.constexpr, D: tl.constexpr,
        WIDE: tl.constexpr, M: tl.constexpr, N: tl.constexpr, NEAR: tl.constexpr,
        CHUNK: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """dk and dv of N of the first `head` keys from CHUNK queries beyond those that the program
        of `sparse_keys` with these keys (a block of NEAR) walks itself."""
        heads, group, length = sizes[0], sizes[1], sizes[2]
        step = sizes[3] if DILATED else 1
        blocks, chunks = far[0] // N, far[1]
        n0 = tl.program_id(0) % blocks * N
        z = tl.program_id(0) // blocks // chunks
        chunk = tl.program_id(0) // blocks % chunks
        r, b, hk = z % step, z // step // (heads // group), z // step % (heads // group)
        n = (length - r + step - 1) // step
        if Real is not None:
            Real += b.to(tl.int64) * length
        k = sparse_rows(K, k_at, b, hk, n0, n, r, step, D, N, WIDE, True)
        v = sparse_rows(V, v_at, b, hk, n0, n, r, step, D, N, WIDE, True)
        j = n0 + tl.arange(0, N)[:, None]
        grads = (tl.zeros([N, WIDE], tl.float32), tl.zeros([N, WIDE], tl.float32))
        end = tl.minimum((chunk + 1) * CHUNK, n)
        begin = tl.minimum(n0 // NEAR * NEAR + NEAR, n) + band[0]
        begin = tl.maximum(tl.minimum(begin, n), chunk * CHUNK)
        seen_by = (band[4], Real, None, None, 0)
        for g in range(0, group):
            h = hk * group + g
            slope = 0.0
            if Slopes is not None:
                slope = tl.load(Slopes + h).to(tl.float32)
            row = (b.to(tl.int64) * heads + h) * length
            for t in range(0, tl.cdiv(tl.maximum(end - begin, 0), M)):
                grads = sparse_keys_tile(
                    grads, k, v, j, n0, (begin + t * M, end), Q, dOut, q_at, do_at, Lse + row,
                    Delta + row, None, band, (b, hk, n, r, step), h, seen_by, (scale, cap, slope),
                    True, flags, D, M, WIDE, True, False, PRECISION,
                )  # fmt: skip
        at = n0 + tl.arange(0, N)[:, None]
        at = ((z.to(tl.int64) * chunks + chunk) * 2 * far[0] + at) * WIDE
        at += tl.arange(0, WIDE)[None, :]
        tl.store(Far + at, grads[0])
        tl.store(Far + at + far[0] * WIDE, grads[1])

    @triton.jit(do_not_specialize=["sizes", "band", "far"])
    def sparse_keys(
        Q, K, V, dOut, dK, dV, Far, Lse, Delta, q_at, k_at, v_at, do_at, dk_at, dv_at, sizes, band,
        far, Bounds, Spans, Counts, Index, Segment, Table, plan_at, Real, Slopes, scale, cap,
        flags: tl.constexpr, DILATED: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr,
        M: tl.constexpr, N: tl.constexpr, PART: tl.constexpr, LOOPS: tl.constexpr,
        TURNED: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """dk and dv of N keys of one kv head."""
        heads, group, length = sizes[0], sizes[1], sizes[2]
        step = sizes[3] if DILATED else 1
        n0, n, r, b, hk = sparse_turn(tl.program_id(0), heads // group, length, step, N, False)
        head = band[4]
        if Bounds is not None:
            Bounds += b * plan_at[0]
            Spans += b * plan_at[1]
            head = tl.load(Spans)
        if Real is not None:
            Real += b.to(tl.int64) * length
        k = sparse_rows(K, k_at, b, hk, n0, n, r, step, D, N, WIDE, True)
        v = sparse_rows(V, v_at, b, hk, n0, n, r, step, D, N, WIDE, True)
        j = n0 + tl.arange(0, N)
        j = j[None, :] if TURNED else j[:, None]
        grads = (tl.zeros([N, WIDE], tl.float32), tl.zeros([N, WIDE], tl.float32))
        where = (b, hk, n, r, step)
        for g in range(0, group):
            h = hk * group + g
            slope = 0.0
            if Slopes is not None:
                slope = tl.load(Slopes + h).to(tl.float32)
            logit = (scale, cap, slope)
            row = (b.to(tl.int64) * heads + h) * length
            seen_by = (head, Real, Segment, Table, plan_at[7])
            Named = Index
            if Table is not None:
                first = Table + b.to(tl.int64) * plan_at[9] + h.to(tl.int64) * plan_at[6]
                seen_by = (head, Real, Segment, first, plan_at[7])
            if PART > 0:
                Named = Index + b * plan_at[4] + h * plan_at[5] + n0 // PART * plan_at[8]
                stretch = (0, n, 0, 0, 0)
                count = sparse_listed(
                    Counts + b * plan_at[2] + h * plan_at[3] + n0 // PART * 2, PART // M
                )
            else:
                walked = 0 if Far is not None else head
                stretch, count = sparse_query_tiles(n0, n, band, walked, Bounds, Spans, flags, M, N)
            wholes = count[0] + count[2] - count[1]
            if LOOPS == "split":
                for u in range(0, wholes):
                    place = sparse_place(sparse_whole(u, count), stretch, Named, M, PART // M)
                    grads = sparse_keys_tile(
                        grads, k, v, j, n0, place, Q, dOut, q_at, do_at, Lse + row, Delta + row,
                        Bounds, band, where, h, seen_by, logit, False, flags, D, M, WIDE, False,
                        TURNED, PRECISION,
                    )  # fmt: skip
                for u in range(0, count[3] - wholes):
                    place = sparse_place(sparse_partial(u, count), stretch, Named, M, PART // M)
                    grads = sparse_keys_tile(
                        grads, k, v, j, n0, place, Q, dOut, q_at, do_at, Lse + row, Delta + row,
                        Bounds, band, where, h, seen_by, logit, True, flags, D, M, WIDE, True,
                        TURNED, PRECISION,
                    )  # fmt: skip
            else:
                for t in range(0, count[3]):
                    partial = True
                    if LOOPS == "branch":
                        partial = (t >= count[0]) & ((t < count[1]) | (t >= count[2]))
                    grads = sparse_keys_tile(
                        grads, k, v, j, n0, sparse_place(t, stretch, Named, M, PART // M), Q, dOut,
                        q_at, do_at, Lse + row, Delta + row, Bounds, band, where, h, seen_by, logit,
                        partial, flags, D, M, WIDE, True, TURNED, PRECISION,
                    )  # fmt: skip
        dk, dv = grads
        if Far is not None:
            z = (b * (heads // group) + hk) * step + r
            rows = n0 + tl.arange(0, N)[:, None]
            at = (z.to(tl.int64) * far[1] * 2 * far[0] + rows) * WIDE
            at += tl.arange(0, WIDE)[None, :]
            for _ in range(0, tl.where(n0 < far[0], far[1], 0)):
                dk += tl.load(Far + at, mask=rows < far[0], other=0.0)
                dv += tl.load(Far + at + far[0] * WIDE, mask=rows < far[0], other=0.0)
                at += 2 * far[0] * WIDE
        sparse_store(dK, dk * scale, dk_at, b, hk, n0, n, r, step, D, N, WIDE)
        sparse_store(dV, dv, dv_at, b, hk, n0, n, r, step, D, N, WIDE)


SPARSE_BACKWARD_JIT: tuple[Callable[..., Any], ...] = ()
if triton is not None:
    SPARSE_BACKWARD_JIT = (
        sparse_weights,
        sparse_queries_tile,
        sparse_queries,
        sparse_query_tiles,
        sparse_keys_tile,
        sparse_far_keys,
        sparse_keys,
    )
