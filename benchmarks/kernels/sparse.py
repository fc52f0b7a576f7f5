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

from benchmarks.kernels.harness import Row
from ops.kernels.sparse import SparsePattern, sparse_attention, sparse_documents

Predicate = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
# Short texts, share of documents by length in thousands of tokens (the benchmark's built-in table).
LENGTHS = (0, 250, 500, 750, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 5000, 6000, 7000, 8000)
LENGTHS = (*LENGTHS, 10000, 15000, 20000, 64000)
SHARES = (0.0766, 0.1651, 0.1246, 0.0972, 0.1324, 0.0927, 0.072, 0.0519, 0.0379, 0.0264, 0.038)
SHARES = (*SHARES, 0.0245, 0.0145, 0.0097, 0.0122, 0.0128, 0.0051, 0.0064)


@dataclass(frozen=True)
class Pattern:
    """`engine(n)` and `predicate(n)` of sequences of n tokens say the same."""

    engine: Callable[[int], SparsePattern]
    predicate: Callable[[int], Predicate]
    dense: str = ""  # "causal" or "full" where torch has a kernel without a mask
    lengths: tuple[int, ...] = (1024, 4096, 16384, 65536)
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
    return which[None].cuda() if torch.cuda.is_available() else which[None]


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


def packed(kind: str, make: Callable[[int], Tensor], prefix: int, block: int, n: int) -> Predicate:
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
    return Pattern(lambda n: SparsePattern(**numbers), lambda n: band(**numbers), dense)


def of_share(make: Callable[[int], dict[str, int]]) -> Pattern:
    """A band whose numbers depend on the length."""
    return Pattern(lambda n: SparsePattern(**make(n)), lambda n: band(**make(n)))


def of_documents(
    kind: str, make: Callable[[int], Tensor] = documents, prefix: int = 0, block: int = 1
) -> Pattern:
    return Pattern(
        lambda n: sparse_documents(make(n), kind, prefix=prefix, block=block),
        partial(packed, kind, make, prefix, block),
    )


def thousands(n: int) -> Tensor:
    return _numbers([min(1000, n - s) for s in range(0, n, 1000)])


def _spread(n: int) -> dict[str, int]:
    w = random.Random(42).randint(1, n // 3 - 1)
    return {"back": w, "ahead": w, "head": 2 * w, "top": 2 * w}


def patterns() -> Mapping[str, Pattern]:
    """The four headline masks, the benchmark's static ones, and dilated windows."""
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
    }


# -- rows ------------------------------------------------------------------------------------------

SIZES = {1024: (16, 16), 4096: (4, 16), 16384: (1, 16), 65536: (1, 4)}
SMALL = 3000


@cache
def chosen(name: str, n: int) -> SparsePattern:
    return patterns()[name].engine(n)


@cache
def allowed(name: str, n: int) -> Tensor:
    """Bool [n, n] on the device, from the predicate."""
    place = torch.arange(n, device="cuda")
    zero = torch.zeros((), dtype=torch.long, device="cuda")
    return patterns()[name].predicate(n)(zero, zero, place[:, None], place[None])


@cache
def area(name: str, n: int) -> int:
    """How many pairs count, exactly."""
    seen, place = patterns()[name].predicate(n), torch.arange(n, device="cuda")
    zero = torch.zeros((), dtype=torch.long, device="cuda")
    return sum(
        int(seen(zero, zero, rows[:, None], place[None]).sum()) for rows in place.split(1024)
    )


def ours(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return sparse_attention(q, k, v, chosen(name, q.shape[2]))[0]


def exact(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~allowed(name, q.shape[2]), float("-inf"))
    return scores.softmax(-1) @ v


class Flex:
    """FlexAttention, compiled at its first call after `reset`; its block mask is made before."""

    def __init__(self, name: str, n: int) -> None:
        self.name, self.n = name, n
        self.call: Callable[..., Tensor] | None = None
        self.mask: Any = None

    def reset(self) -> None:
        from torch.nn.attention.flex_attention import create_block_mask

        torch._dynamo.reset()
        self.call = None
        if self.mask is None:
            seen = patterns()[self.name].predicate(self.n)
            self.mask = create_block_mask(
                seen, None, None, self.n, self.n, device="cuda", _compile=self.n > 16384
            )

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from torch.nn.attention.flex_attention import flex_attention

        if self.call is None:
            self.call = torch.compile(flex_attention, dynamic=False)
        return self.call(q, k, v, block_mask=self.mask)


def masked_sdpa(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed(name, q.shape[2]))


def tensors(b: int, h: int, n: int, d: int, grad: bool) -> Callable[[int], tuple[Tensor, ...]]:
    """q, k, v [B, H, N, D] in bf16 by seed."""

    def make(seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator("cuda").manual_seed(seed)
        made = (
            torch.randn(b, h, n, d, generator=generator, device="cuda", dtype=torch.bfloat16)
            for _ in range(3)
        )
        return tuple(x.requires_grad_(grad) for x in made)

    return make


def row(name: str, n: int, d: int, mode: str) -> Row:
    (b, h), train = SIZES[n], mode != "fwd"
    pattern, flex = patterns()[name], Flex(name, n)
    peers: dict[str, Callable[..., Tensor]] = {"flex": flex}
    if pattern.dense:
        causal = pattern.dense == "causal"
        peers["sdpa"] = partial(F.scaled_dot_product_attention, is_causal=causal)
    elif n <= 4096:
        peers["sdpa mask"] = partial(masked_sdpa, name)
    return Row(
        engine="sparse",
        name=f"{name} N{n} D{d}",
        mode=mode,
        inputs=tensors(b, h, n, d, train),
        small=tensors(1, 2, SMALL, d, train),
        ours=partial(ours, name),
        reference=partial(exact, name),
        flops=4.0 * area(name, n) * b * h * d * (3.5 if train else 1),
        bytes=2.0 * b * h * n * d * (12 if train else 4),
        peers=peers,
        note=pattern.note,
        warm=flex.reset,
    )


def rows() -> Iterator[Row]:
    """Headline masks first, then 4096 tokens, then the other lengths."""
    names = list(patterns())
    order = [(name, n) for n in (4096, 16384, 1024, 65536) for name in names[:4]]
    order += [(name, n) for n in (4096, 16384, 1024, 65536) for name in names[4:]]
    for (name, n), d, mode in itertools.product(order, (64, 128), ("fwd", "fwd+bwd")):
        if n in patterns()[name].lengths:
            yield row(name, n, d, mode)
