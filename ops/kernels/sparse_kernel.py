"""Triton forward pass of sparse softmax attention: tiles of queries times tiles of keys they see.

    o_i = sum_j exp(z_ij - lse_i) v_j,   lse_i = log sum_j exp z_ij (+ exp sink_h),   j seen by i
    z_ij = cap tanh((scale q_i . k_j - slope_h |i - j|) / cap)      (slopes and cap where given)

Query i sees key j where  j < hi_i and (j >= lo_i or j < head)  (and `Table` and `Real` allow it).
Where lo and hi come from is a `SparsePattern` (ops/kernels/sparse.py), kind by kind:

    band     lo_i = i - back, hi_i = max(i + ahead + 1, least); rows i < top see all: arithmetic
    bounds   lo and hi are read from int32 tables [B or 1, 4, T] (documents)
    lists    a list of key blocks for each query block, whole ones first; in the others `Table`
             says by segments of tokens who sees whom (random blocks, chosen blocks)

A program has BLOCK_M queries of one head and walks numbered tiles of BLOCK_N keys: those of the
first `head` keys, then those from the block's least lo to its greatest hi; or its list. Tiles that
every row sees whole skip the predicate. LOOPS: "split", one loop for whole and one for partial
tiles; "branch", one loop that asks; "masked", one loop with the predicate everywhere.

Shapes: q, o [B, H, T, D], k, v [B, H_kv, T, D], any strides with a contiguous last axis; lse [B, H,
T] fp32, natural, -inf in a row that sees no key (its o is 0). With `step` d > 1 the tokens r, r + d
... are a sequence of their own, for each r < d, and places count in it.
Floors: 4 D FLOPs a seen pair; bytes of q, k, v, o once. Saved for the backward pass: q, k, v, o,
lse. Paper: Dao 2023, arXiv:2307.08691 (tiling); Milakov & Gimelshein 2018, arXiv:1805.02867.
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
    def sparse_rows(
        P, at, b, h, start, end, r, step,
        D: tl.constexpr, SIZE: tl.constexpr, WIDE: tl.constexpr, EDGE: tl.constexpr,
    ):  # fmt: skip
        """Rows start.. of head (b, h), [SIZE, WIDE]; row m is token m step + r. By pointer, `at`
        its strides (batch, head, token), or by tensor descriptor where `at` is None. EDGE: rows
        from `end` on are 0."""
        if at is None:
            x = P.load([b, h, start, 0]).reshape(SIZE, WIDE)
        else:
            first = start.to(tl.int64) * step + r
            base = P + b.to(tl.int64) * at[0] + h.to(tl.int64) * at[1] + first * at[2]
            row = tl.arange(0, SIZE)[:, None]
            col = tl.arange(0, WIDE)[None, :]
            base += row * (at[2] * step) + col
            if EDGE and D != WIDE:
                x = tl.load(base, mask=(row < end - start) & (col < D), other=0.0)
            elif EDGE:
                x = tl.load(base, mask=row < end - start, other=0.0)
            elif D != WIDE:
                x = tl.load(base, mask=col < D, other=0.0)
            else:
                x = tl.load(base)
        return x

    @triton.jit
    def sparse_store(
        P, x, at, b, h, start, end, r, step,
        D: tl.constexpr, SIZE: tl.constexpr, WIDE: tl.constexpr,
    ):  # fmt: skip
        """Rows start.. before `end` of head (b, h) become x [SIZE, WIDE]."""
        first = start.to(tl.int64) * step + r
        base = P + b.to(tl.int64) * at[0] + h.to(tl.int64) * at[1] + first * at[2]
        row = tl.arange(0, SIZE)[:, None]
        col = tl.arange(0, WIDE)[None, :]
        inside = (row < end - start) & (col < D)
        tl.store(base + row * (at[2] * step) + col, x.to(P.dtype.element_ty), mask=inside)

    @triton.jit
    def sparse_bounds(i, n, band, Bounds):
        """lo and hi of rows i; the last row's beyond the end."""
        i = tl.minimum(i, n - 1)
        if Bounds is not None:
            return tl.load(Bounds + i), tl.load(Bounds + n + i)
        whole = i < band[3]
        lo = tl.where(whole, 0, tl.maximum(i - band[0], 0))
        hi = tl.maximum(tl.minimum(i + band[1] + 1, n), tl.minimum(band[2], n))
        return lo, tl.where(whole, n, hi)

    @triton.jit
    def sparse_key_tiles(
        m0, n, lo, hi, band, head, Bounds, HEAD: tl.constexpr, M: tl.constexpr, N: tl.constexpr
    ):
        """The key tiles of queries m0.. : (first, stop, 0, near, lead), (whole, full, rest, total).

        Tiles t < lead cover keys [0, near), the others [first, stop). Seen whole by every row: t <
        whole and full <= t < rest.
        """
        if Bounds is not None:
            first, most = tl.min(lo, 0), tl.max(lo, 0)
            least, stop = tl.min(hi, 0), tl.max(hi, 0)
        else:
            first, start_hi = sparse_bounds(m0, n, band, None)
            most, stop = sparse_bounds(m0 + M - 1, n, band, None)
            stop = tl.maximum(start_hi, stop)
            _, past = sparse_bounds(tl.maximum(m0, band[3]), n, band, None)
            least = tl.where(m0 + M <= band[3], n, past)
        near = 0
        lead = 0
        whole = 0
        if HEAD:
            near = tl.minimum(head, first)
            lead = tl.cdiv(near, N)
            whole = tl.where(least >= near, near // N, 0)
        total = lead + tl.cdiv(tl.maximum(stop - first, 0), N)
        full = tl.minimum(lead + tl.cdiv(tl.maximum(most - first, 0), N), total)
        rest = tl.maximum(lead + tl.maximum(least - first, 0) // N, full)
        return (first, stop, 0, near, lead), (whole, full, rest, total)

    @triton.jit
    def sparse_listed(Counts, PER: tl.constexpr):
        """(whole, full, rest, total) of a list: its whole blocks stand first."""
        whole = tl.load(Counts) * PER
        return whole, whole, whole, tl.load(Counts + 1) * PER

    @triton.jit
    def sparse_place(t, stretch, Index, SIZE: tl.constexpr, PER: tl.constexpr):
        """Where tile t starts, and the end of its stretch. A list (PER > 0) names blocks of PER."""
        if PER > 0:
            return (tl.load(Index + t // PER) * PER + t % PER) * SIZE, stretch[1]
        leads = t < stretch[4]
        start = tl.where(leads, stretch[2] + t * SIZE, stretch[0] + (t - stretch[4]) * SIZE)
        return start, tl.where(leads, stretch[3], stretch[1])

    @triton.jit
    def sparse_whole(u, count):
        """The u-th of the tiles that are seen whole."""
        return tl.where(u < count[0], u, u - count[0] + count[1])

    @triton.jit
    def sparse_partial(u, count):
        """The u-th of the tiles that are not."""
        t = u + count[0]
        return tl.where(t < count[1], t, t + count[2] - count[1])

    @triton.jit
    def sparse_logits(
        s, i, j, step, scale, cap, slope, CAP: tl.constexpr, ALIBI: tl.constexpr
    ):  # fmt: skip
        """(z, c): the logits in units of log 2 are z c, c > 0."""
        if not (ALIBI or CAP):
            return s, scale * 1.4426950408889634
        z = s * scale
        if ALIBI:
            z -= slope * (tl.abs(i - j) * step).to(tl.float32)
        if CAP:
            x = z / cap
            far = 1.0 - 2.0 / (1.0 + tl.exp2(x * 2.8853900817779268))
            z = cap * tl.where(tl.abs(x) < 0.02, x - x * x * x * 0.3333333333, far)
        return z, 1.4426950408889634

    @triton.jit
    def sparse_sees(
        i, j, j0, n, lo, hi, head, r, step, Real, Segment, Table, segments,
        LOW: tl.constexpr, HEAD: tl.constexpr, SELF: tl.constexpr, ALIGNED: tl.constexpr,
    ):  # fmt: skip
        """Whether query i sees key j, both with a broadcast axis; lo and hi are those of i. Keys
        j0.. of a tile are of one segment where ALIGNED."""
        seen = j < hi
        if LOW and HEAD:
            seen = seen & ((j >= lo) | (j < head))
        elif LOW:
            seen = seen & (j >= lo)
        if Real is not None:
            real = tl.load(Real + tl.minimum(j, n - 1) * step + r) != 0
            seen = seen & (real | (i == j)) if SELF else seen & real
        if Table is not None:
            u = tl.load(Segment + tl.minimum(i, n - 1))
            if ALIGNED:
                v = tl.load(Segment + n + tl.minimum(j0, n - 1))
            else:
                v = tl.load(Segment + n + tl.minimum(j, n - 1))
            seen = seen & (tl.load(Table + u * segments + v) != 0)
        return seen

    @triton.jit
    def sparse_turn(program, heads, length, step, SIZE: tl.constexpr, LAST_FIRST: tl.constexpr):
        """(start, n, r, b, h) of a program: block of SIZE places of residue r, batch, head."""
        blocks = tl.cdiv(tl.cdiv(length, step), SIZE)
        block = program % blocks
        if LAST_FIRST:
            block = blocks - 1 - block
        z = program // blocks
        r = z % step
        bh = z // step
        return block * SIZE, (length - r + step - 1) // step, r, bh // heads, bh % heads

    @triton.jit
    def sparse_forward_tile(
        state, q, i, rows, place, K, V, k_at, v_at, where, seen_by, logit, partial,
        flags: tl.constexpr, D: tl.constexpr, N: tl.constexpr, WIDE: tl.constexpr,
        MASK: tl.constexpr, PRECISION: tl.constexpr,
    ):  # fmt: skip
        """One tile of keys joins (mixed values, running maximum in units of log 2, sum)."""
        acc, top, total = state
        start, end = place
        b, h, n, r, step = where
        k = sparse_rows(K, k_at, b, h, start, n, r, step, D, N, WIDE, MASK)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        j = start + tl.arange(0, N)[None, :]
        z, c = sparse_logits(s, i, j, step, logit[0], logit[1], logit[2], flags[3], flags[4])
        if partial:
            hi = tl.minimum(rows[1], end)
            seen = sparse_sees(
                i, j, start, n, rows[0], hi, seen_by[0], r, step, seen_by[1], seen_by[2],
                seen_by[3], seen_by[4], flags[0], flags[1], flags[2], flags[6],
            )  # fmt: skip
            z = tl.where(seen, z, float("-inf"))
        higher = tl.maximum(top, tl.max(z, 1) * c)
        p = tl.exp2(z * c - higher[:, None])
        shrink = tl.exp2(top - higher)
        v = sparse_rows(V, v_at, b, h, start, n, r, step, D, N, WIDE, MASK)
        acc = tl.dot(p.to(q.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
        return acc, higher, total * shrink + tl.sum(p, 1)

    @triton.jit(do_not_specialize=["sizes", "band"])
    def sparse_forward(
        Q, K, V, Out, Lse, q_at, k_at, v_at, o_at, sizes, band, Bounds, Spans, Counts, Index,
        Segment, Table, plan_at, Real, Slopes, Sinks, scale, cap, flags: tl.constexpr,
        DILATED: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, M: tl.constexpr,
        N: tl.constexpr, PART: tl.constexpr, LOOPS: tl.constexpr, LAST_FIRST: tl.constexpr,
        PRECISION: tl.constexpr,
    ):  # fmt: skip
        """M queries of one head against the keys they see, N at a time."""
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
        top = tl.full([M], -1e30, tl.float32)
        total = tl.zeros([M], tl.float32)
        if Sinks is not None:
            sink = tl.load(Sinks + h).to(tl.float32) * 1.4426950408889634
            top, total = tl.zeros([M], tl.float32) + sink, total + 1.0
        q = sparse_rows(Q, q_at, b, h, m0, n, r, step, D, M, WIDE, True)
        state = (tl.zeros([M, WIDE], tl.float32), top, total)
        rows = (lo[:, None], hi[:, None])
        where = (b, h // group, n, r, step)
        seen_by = (head, Real, Segment, Table, plan_at[7])
        logit = (scale, cap, slope)
        wholes = count[0] + count[2] - count[1]
        if LOOPS == "split":
            for u in range(0, wholes):
                place = sparse_place(sparse_whole(u, count), stretch, Index, N, PART // N)
                state = sparse_forward_tile(
                    state, q, i[:, None], rows, place, K, V, k_at, v_at, where, seen_by, logit,
                    False, flags, D, N, WIDE, False, PRECISION,
                )  # fmt: skip
            for u in range(0, count[3] - wholes):
                place = sparse_place(sparse_partial(u, count), stretch, Index, N, PART // N)
                state = sparse_forward_tile(
                    state, q, i[:, None], rows, place, K, V, k_at, v_at, where, seen_by, logit,
                    True, flags, D, N, WIDE, True, PRECISION,
                )  # fmt: skip
        else:
            for t in range(0, count[3]):
                partial = True
                if LOOPS == "branch":
                    partial = (t >= count[0]) & ((t < count[1]) | (t >= count[2]))
                state = sparse_forward_tile(
                    state, q, i[:, None], rows, sparse_place(t, stretch, Index, N, PART // N), K, V,
                    k_at, v_at, where, seen_by, logit, partial, flags, D, N, WIDE, True, PRECISION,
                )  # fmt: skip
        acc, top, total = state
        blind = total == 0.0
        total = tl.where(blind, 1.0, total)
        y = acc / total[:, None]
        sparse_store(Out, y, o_at, b, h, m0, n, r, step, D, M, WIDE)
        lse = tl.where(blind, float("-inf"), (top + tl.log2(total)) * 0.6931471805599453)
        at = (b.to(tl.int64) * heads + h) * length + i.to(tl.int64) * step + r
        tl.store(Lse + at, lse, mask=i < n)


SPARSE_FORWARD_JIT: tuple[Callable[..., Any], ...] = ()
if triton is not None:
    SPARSE_FORWARD_JIT = (
        sparse_rows,
        sparse_store,
        sparse_bounds,
        sparse_key_tiles,
        sparse_listed,
        sparse_place,
        sparse_whole,
        sparse_partial,
        sparse_logits,
        sparse_sees,
        sparse_turn,
        sparse_forward_tile,
        sparse_forward,
    )
