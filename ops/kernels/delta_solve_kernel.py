"""Triton kernel of the triangular systems of the delta rule, one a chunk of 64 tokens.

    T = (I + N)^{-1},   N = strictly_lower(diag(b) (K K^T * D)),   D_ij = e^{G_ij}

Four 16 x 16 blocks on the diagonal are inverted by substitution of rows, the six below them follow
from products, T_ab = -T_aa sum_{b<=c<a} N_ac T_cb: a substitution by blocks in fp32 (three tf32),
not a power series, whose terms are huge for keys that are alike. Gates come as `decay_logs` leaves
them. FLOPs a chunk: 20 K 16^2 for N, 32 * 16^3 * 3 for the products; it reads k and writes 64
elements a token.
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
    def delta_half(
        G, low, start, left, gamma, first: tl.constexpr, GATED: tl.constexpr, REVERSE: tl.constexpr
    ):  # fmt: skip
        """32 rows of D, [32, 64], and of `into` (REVERSE: of D^T and rest), from the `first` on.

        A product with a computed left side of 64 rows is what CUDA 12's assembler may spoil.
        """
        i = first + tl.arange(0, 32)
        j = tl.arange(0, 64)
        if GATED:
            low = tl.multiple_of(low, 16)
            high_i, lost_i = tl.load(G + start + i), tl.load(G + low + start + i)
            high_j, lost_j = tl.load(G + start + j), tl.load(G + low + start + j)
            gaps = (high_i[:, None] - high_j[None, :]) + (lost_i[:, None] - lost_j[None, :])
            last = G + start + 63
            back = (tl.load(last) - high_i) + (tl.load(last + low) - lost_i)
            weight = tl.exp(tl.minimum(back, 0.0)) if REVERSE else tl.exp(high_i)
        else:
            gaps = (i[:, None] - j[None, :]).to(tl.float32) * gamma
            back = (tl.minimum(left, 64) - 1 - i).to(tl.float32)
            behind = tl.exp(tl.where(i < left, back * gamma, float("-inf")))
            weight = behind if REVERSE else tl.exp((i + 1).to(tl.float32) * gamma)
        if REVERSE:
            decay = tl.exp(tl.where(i[:, None] <= j[None, :], -gaps, float("-inf")))
        else:
            decay = tl.exp(tl.where(i[:, None] >= j[None, :], gaps, float("-inf")))
        return i, decay, weight

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
        k = tl.load(K + (start + i[:, None]) * kt + c[None, :], mask=inside, other=0.0)
        beta = tl.load(BETA + (start + i) * bt, mask=live, other=0.0).to(tl.float32)
        if GATED:
            high = tl.load(G + start + i)
            lost = tl.load(G + low + start + i)
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


SOLVE_JIT: tuple[Callable[..., Any], ...] = ()
if triton is not None:
    SOLVE_JIT = (delta_half, delta_rows, delta_pair, delta_inverse, delta_product, delta_solve)
