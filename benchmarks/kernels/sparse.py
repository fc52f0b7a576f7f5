"""Sparse softmax attention: the masks of the Long-Context Attention Benchmark, and ours, as rows.

    python -m benchmarks.kernels.harness --engines sparse --names "window 256,documents 1000"

A `Pattern` says twice which pairs count: as the engine's numbers, and as a predicate on indices,
from which come the float64 reference, FlexAttention's block mask and the area (exactly: pairs are
counted chunk by chunk). FLOPs 4 area H D forward, 3.5 times that with the backward pass; bytes: q,
k, v, o once, and with the backward pass q, k, v, o, do read and dq, dk, dv written.
Peers: FlexAttention, compiled (Dynamo is reset for every row, the block mask is made before), and
torch's SDPA with a mask up to 4096 tokens, or without one where the pattern is dense.
Patterns: LongCA-bench, arXiv:2510.17896, with its definitions repaired: prefixes end at j < p,
bidirectional windows count on both sides, and one predicate serves area and kernels.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.kernels.harness import SDPA, Row
from ops.kernels.sparse import (
    SparsePattern,
    sparse_attention,
    sparse_blocks,
    sparse_documents,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Predicate = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
# Short texts, share of documents by length in thousands of tokens (the benchmark's built-in table).
LENGTHS = (0, 250, 500, 750, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 5000, 6000, 7000, 8000)
LENGTHS = (*LENGTHS, 10000, 15000, 20000, 64000)
SHARES = (0.0766, 0.1651, 0.1246, 0.0972, 0.1324, 0.0927, 0.072, 0.0519, 0.0379, 0.0264, 0.038)
SHARES = (*SHARES, 0.0245, 0.0145, 0.0097, 0.0122, 0.0128, 0.0051, 0.0064)


@dataclass(frozen=True)
class Pattern:
    """`engine` and `predicate` of (length, heads) say the same."""

    engine: Callable[[int, int], SparsePattern]
    predicate: Callable[[int, int], Predicate]
    dense: str = ""  # "causal" or "full" where torch has a kernel without a mask
    per_head: bool = False
    note: str = ""


def documents(n: int, seed: int = 42) -> Tensor:
    """Document numbers [1, n] of random lengths drawn from the table."""
    draw, left, sizes = random.Random(seed), n, []
    while left:
        fits = [i for i in range(len(SHARES)) if LENGTHS[i] <= left]
        i = draw.choices(fits, [SHARES[i] for i in fits])[0]
        size = draw.randint(LENGTHS[i], min(LENGTHS[i + 1] - 1, left))
        sizes += [size] if size else []
        left -= size
    return _numbers(sizes)


def blocked_documents(n: int, block: int, seed: int = 42) -> Tensor:
    """Document numbers [1, n] of runs of 1 to 8 blocks."""
    draw, left, sizes = random.Random(seed), n, []
    while left:
        sizes.append(min(left, block * draw.randint(1, 8)))
        left -= sizes[-1]
    return _numbers(sizes)


def _numbers(sizes: list[int]) -> Tensor:
    which = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return which[None].to(DEVICE)


def _starts(doc: Tensor) -> Tensor:
    return torch.searchsorted(doc[0].contiguous(), doc[0].contiguous())


def band(**numbers: int) -> Predicate:
    """What a band of `SparsePattern` means, said of pairs."""
    back, ahead = numbers.get("back", 2**30), numbers.get("ahead", 2**30)
    least, top, head = (numbers.get(k, 0) for k in ("least", "top", "head"))
    step = numbers.get("step", 1)

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        gap = i - j
        near = (gap <= back * step) & (gap >= -ahead * step)
        if least:
            near = near | (j < least)
        if top:
            near = near | (i < top) | (j < head)
        elif head:
            near = near | ((j < head) & (gap >= -ahead))
        return near & (gap % step == 0) if step > 1 else near

    return seen


def packed(
    kind: str, make: Callable[[int], Tensor], prefix: int, block: int, n: int, heads: int
) -> Predicate:
    """Predicates on documents, from their numbers and starts."""
    doc = make(n)[0].contiguous()
    start, last = _starts(doc[None]), doc[-1].clone()

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        same = doc[i] == doc[j]
        causal = same & (j <= i)
        if kind == "full":
            return same
        if kind == "shared":
            return causal | ((doc[j] == 0) & (doc[i] != 0))
        if kind == "last":
            return causal | ((doc[i] == last) & (doc[j] != last))
        if kind == "prefix":
            return same & ((j <= i) | (j - start[j] < prefix))
        if kind == "blocks":
            return same & (j < (i // block + 1) * block)
        return causal

    return seen


def of_band(dense: str = "", **numbers: int) -> Pattern:
    return Pattern(lambda n, h: SparsePattern(**numbers), lambda n, h: band(**numbers), dense)


def of_share(make: Callable[[int], dict[str, int]]) -> Pattern:
    """A band whose numbers depend on the length."""
    return Pattern(lambda n, h: SparsePattern(**make(n)), lambda n, h: band(**make(n)))


def of_documents(
    kind: str, make: Callable[[int], Tensor] = documents, prefix: int = 0, block: int = 1
) -> Pattern:
    return Pattern(
        lambda n, h: sparse_documents(make(n), kind, prefix=prefix, block=block),
        partial(packed, kind, make, prefix, block),
    )


@cache
def kept_blocks(n: int, heads: int, block: int, rho: float, seed: int = 42) -> Tensor:
    """Bool [1, H, N / b, N / b]: every block of queries keeps the share `rho` of random scores."""
    count = -(-n // block)
    scores = torch.rand(heads, count, count, generator=torch.Generator().manual_seed(seed))
    best = scores.topk(max(1, int(rho * count)), -1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True)[None].to(DEVICE)


@cache
def uneven_blocks(n: int, heads: int, mean: int, rho: float) -> tuple[Tensor, Tensor]:
    """(block of every token [n], bool [1, H, S, S]): sizes from 128 on, pairs with chance rho."""
    draw = random.Random(42)
    sizes: list[int] = []
    while sum(sizes) < n:
        sizes.append(min(n - sum(sizes), draw.randint(128, 2 * mean - 128)))
    chance = torch.rand(heads, len(sizes), len(sizes), generator=torch.Generator().manual_seed(42))
    seen = (chance < rho) | torch.eye(len(sizes), dtype=torch.bool)  # no row is empty
    return _numbers(sizes)[0], seen[None].to(DEVICE)


def looked_up(table: Tensor, segment: Tensor) -> Predicate:
    return lambda b, h, i, j: table[0, h, segment[i], segment[j]]


def of_blocks(block: int, rho: float) -> Pattern:
    return Pattern(
        lambda n, h: sparse_blocks(kept_blocks(n, h, block, rho), block, block, n, causal=False),
        lambda n, h: looked_up(
            kept_blocks(n, h, block, rho), torch.arange(n, device=DEVICE) // block
        ),
        per_head=True,
    )


def of_uneven_blocks(mean: int, rho: float) -> Pattern:
    def engine(n: int, heads: int) -> SparsePattern:
        segment, table = uneven_blocks(n, heads, mean, rho)
        return sparse_blocks(table, segment, segment, n, causal=False)

    def predicate(n: int, heads: int) -> Predicate:
        segment, table = uneven_blocks(n, heads, mean, rho)
        return looked_up(table, segment)

    return Pattern(engine, predicate, per_head=True)


def thousands(n: int) -> Tensor:
    return _numbers([min(1000, n - s) for s in range(0, n, 1000)])


def _spread(n: int) -> dict[str, int]:
    w = random.Random(42).randint(1, n // 3 - 1)
    return {"back": w, "ahead": w, "head": 2 * w, "top": 2 * w}


def patterns() -> Mapping[str, Pattern]:
    """The four headline masks, the benchmark's fourteen, and dilated windows."""
    return {
        "window 256": of_band(back=255, ahead=0),
        "window 256 sink 4": of_band(back=255, ahead=0, head=4),
        "documents 1000": of_documents("causal", thousands),
        "prefix 1000": of_band(ahead=0, least=1000),
        "full": of_band("full"),
        "causal": of_band("causal", ahead=0),
        "full document": of_documents("full"),
        "causal document": of_documents("causal"),
        "full sliding window": of_band(back=1024, ahead=1024),
        "causal sliding window": of_band(back=1024, ahead=0),
        "shared question": of_documents("shared"),
        "global sliding": of_share(_spread),
        "causal blockwise": of_documents("last"),
        "prefix causal": of_share(lambda n: {"ahead": 0, "least": random.Random(42).randint(1, n)}),
        "prefix document": of_documents("prefix", prefix=256),
        "block causal document": of_documents(
            "blocks", lambda n: blocked_documents(n, 1024), block=1024
        ),
        "dilated 256 by 4": of_band(back=255, ahead=0, step=4),
        **{f"uniform block 64 rho {r}": of_blocks(64, r) for r in (0.2, 0.5)},
        **{f"uniform block 128 rho {r}": of_blocks(128, r) for r in (0.1, 0.2, 0.5, 0.8)},
        **{f"variable block {m} rho 0.2": of_uneven_blocks(m, 0.2) for m in (128, 256, 512, 1024)},
        "variable block 512 rho 0.5": of_uneven_blocks(512, 0.5),
    }


# -- rows ------------------------------------------------------------------------------------------

SIZES = {1024: (16, 16), 4096: (4, 16), 16384: (1, 16), 65536: (1, 4)}
SMALL = 3000  # tokens of the inputs that are checked


@cache
def chosen(name: str, n: int, heads: int) -> SparsePattern:
    return patterns()[name].engine(n, heads)


def pairs(name: str, heads: int, query: Tensor, key: Tensor, n: int) -> Tensor:
    """Bool [H or 1, queries, keys], from the predicate."""
    pattern = patterns()[name]
    h = torch.arange(heads if pattern.per_head else 1, device=query.device)
    seen = pattern.predicate(n, heads)
    return seen(torch.zeros_like(h[0]), h[:, None, None], query[:, None], key[None])


@cache
def allowed(name: str, n: int, heads: int) -> Tensor:
    """Bool [H or 1, n, n] on the device."""
    place = torch.arange(n, device=DEVICE)
    return pairs(name, heads, place, place, n).reshape(-1, n, n)


@cache
def area(name: str, n: int, heads: int) -> float:
    """How many pairs count, exactly; the mean of the heads."""
    place = torch.arange(n, device=DEVICE)
    counts = []
    for rows in place.split(256):
        seen = pairs(name, heads, rows, place, n).reshape(-1, len(rows), n)
        counts.append(torch.count_nonzero(seen).double() / len(seen))
    return float(torch.stack(counts).sum())


def ours(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What the ops call: dense patterns go to torch."""
    if (dense := patterns()[name].dense) and q.dtype != torch.float64:
        return F.scaled_dot_product_attention(q, k, v, is_causal=dense == "causal")
    return sparse_attention(q, k, v, chosen(name, q.shape[2], q.shape[1]))[0]


def exact(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q @ k.mT * q.shape[-1] ** -0.5
    scores = scores.masked_fill(~allowed(name, q.shape[2], q.shape[1]), float("-inf"))
    return scores.softmax(-1) @ v


class Flex:
    """FlexAttention, compiled at its first call after `reset`; its block mask is made before."""

    def __init__(self, name: str, n: int, heads: int) -> None:
        self.name, self.n, self.heads = name, n, heads
        self.call: Callable[..., Tensor] | None = None
        self.mask: Any = None

    def reset(self) -> None:
        from torch.nn.attention.flex_attention import create_block_mask

        torch._dynamo.reset()
        self.call = None
        if self.mask is None:
            pattern, n = patterns()[self.name], self.n
            seen, heads = pattern.predicate(n, self.heads), self.heads if pattern.per_head else None
            self.mask = create_block_mask(
                seen, None, heads, n, n, device="cuda", _compile=n * n * (heads or 1) > 2**29
            )

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from torch.nn.attention.flex_attention import flex_attention

        if self.call is None:
            self.call = torch.compile(flex_attention, dynamic=False)
        return self.call(q, k, v, block_mask=self.mask, enable_gqa=q.shape[1] != k.shape[1])


def masked_sdpa(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = allowed(name, q.shape[2], q.shape[1])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def tensors(
    b: int, h: int, n: int, d: int, grad: bool, few: int | None = None
) -> Callable[[int], tuple[Tensor, ...]]:
    """q [B, H, N, D], k and v [B, `few` or H, N, D] in bf16 by seed."""

    def make(seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator("cuda").manual_seed(seed)
        made = (
            torch.randn(b, heads, n, d, generator=generator, device="cuda", dtype=torch.bfloat16)
            for heads in (h, few or h, few or h)
        )
        return tuple(x.requires_grad_(grad) for x in made)

    return make


def row(name: str, n: int, d: int, mode: str, shape: tuple[int, int, int] | None = None) -> Row:
    """`shape`: batch, heads and key heads, where not as many as heads."""
    b, h, few = shape or (*SIZES[n], SIZES[n][1])
    train, shared = mode != "fwd", h // few
    pattern, flex = patterns()[name], Flex(name, n, h)
    peers: dict[str, Callable[..., Tensor]] = {"flex": flex}
    if pattern.dense:
        causal = pattern.dense == "causal"
        peers["sdpa"] = partial(F.scaled_dot_product_attention, is_causal=causal)
    elif n <= 4096 and shared == 1:
        peers["sdpa mask"] = partial(masked_sdpa, name)
    return Row(
        engine="sparse",
        name=f"{name} N{n} D{d}" + (f" H{h}:{few}" if shared > 1 else ""),
        mode=mode,
        inputs=tensors(b, h, n, d, train, few),
        small=tensors(1, 2 * shared, SMALL, d, train, 2),
        ours=partial(ours, name),
        reference=partial(exact, name),
        flops=lambda: 4.0 * area(name, n, h) * b * h * d * (3.5 if train else 1),
        bytes=4.0 * b * (h + few) * n * d * (3 if train else 1),
        peers=peers,
        note=SDPA if pattern.dense else pattern.note,
        warm=flex.reset,
    )


def rows() -> Iterator[Row]:
    """Headline masks first, then 4096 tokens, then the other lengths, then shared key heads."""
    names = list(patterns())
    order = [(name, n) for n in (4096, 16384, 1024, 65536) for name in names[:4]]
    order += [(name, n) for n in (4096, 16384, 1024, 65536) for name in names[4:]]
    for (name, n), d, mode in itertools.product(order, (64, 128), ("fwd", "fwd+bwd")):
        yield row(name, n, d, mode)
    shared = ("causal sliding window", "causal document", "prefix document")
    for name, mode in itertools.product(shared, ("fwd", "fwd+bwd")):
        yield row(name, 8192, 128, mode, (1, 64, 8))
