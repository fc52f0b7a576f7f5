"""The engine of softmax attention: which pairs count x what a pair scores x weights x cache.

    y = W_o concat_h  weigh(scores(q, k), seen) v

`ScoreAttention` writes the whole [T, S] table of scores out: it is the specification, and each
variant overrides the one part in which it differs:

    allowed(query, key)   mask: which pairs of places count, bool broadcast to [T, S]; None: all
    scores(q, k, gap)     [B, H, T, S], scaled, positions in it; gap = query place - key place
    weigh(scores, seen)   weights over keys, [B, H, T, S]
    cache_size, slot, places   the cache: its rows, where a new token goes, whose place a row holds

Shapes: x [B, T, D], q [B, H, T, K], k and v [B, kv_heads, S, K]. A query that sees no key gives 0.
FLOPs of the plain parts: 4 T D^2 + 2 S kv_dim P + 4 T S D, P = 2 kv_heads K.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from grammar.domain import Domain, Flag, Int, Word
from ops.kernels.positions import MEETING, alibi_slopes, meeting
from ops.spec import Cost, Mismatch, TensorType, need, need_divides


def split_heads(z: Tensor, heads: int) -> Tensor:
    """[B, T, H K] -> [B, H, T, K]."""
    split: Tensor = torch.unflatten(z, -1, (heads, -1)).transpose(1, 2)
    return split


def masked_softmax(scores: Tensor, seen: Tensor | None) -> Tensor:
    """Softmax over the keys that are seen; a row that sees none is 0."""
    if seen is None:
        return scores.softmax(-1)
    low = torch.finfo(scores.dtype).min
    return scores.masked_fill(~seen, low).softmax(-1) * seen


class ScoreAttention(nn.Module):
    slopes: Tensor

    def __init__(
        self,
        dim: int,
        heads: int,
        causal: bool = False,
        pos: str = "none",
        kv_heads: int | None = None,
        bias: bool = False,
        kv_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = heads, kv_heads or heads, dim // heads
        self.causal, self.pos, self.scale = causal, pos, (dim // heads) ** -0.5
        self.q = nn.Linear(dim, dim, bias=bias)
        self.kv = nn.Linear(kv_dim or dim, 2 * self.kv_heads * self.width, bias=bias)
        self.out = nn.Linear(dim, dim, bias=bias)
        if pos == "alibi":
            self.register_buffer("slopes", alibi_slopes(heads), persistent=False)

    def project(self, x: Tensor, kv: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return meeting(self.q(x), self.kv(kv), place, self.width, turn=self.pos == "rope")

    def allowed(self, query: Tensor, key: Tensor) -> Tensor | None:
        return query >= key if self.causal else None

    def every_head(self, z: Tensor) -> Tensor:
        """Keys or values of the groups, repeated for the heads that read them."""
        shared = self.heads // self.kv_heads
        return z if shared == 1 else z.repeat_interleave(shared, 1)

    def scores(self, q: Tensor, k: Tensor, gap: Tensor) -> Tensor:
        scores: Tensor = q @ self.every_head(k).mT * self.scale
        if self.pos == "alibi":
            scores = scores - self.slopes.to(scores.dtype)[:, None, None] * gap.abs()
        return scores

    def weigh(self, scores: Tensor, seen: Tensor | None) -> Tensor:
        return masked_softmax(scores, seen)

    def merge(self, y: Tensor) -> Tensor:
        merged: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return merged

    def seen(self, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor | None:
        """Which pairs count: `allowed`, and no key at padding."""
        pairs = self.allowed(query, key)
        if mask is None:
            return pairs
        keys = mask[:, None, None, :]
        return keys if pairs is None else pairs & keys

    def mix(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The mixed values [B, H, T, K]."""
        place = torch.arange(x.shape[1], device=x.device)
        return self.blend(*self.project(x, x, place), place, mask)

    def blend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        place: Tensor,
        mask: Tensor | None,
        pairs: Tensor | None = None,
    ) -> Tensor:
        """The mixed values of q, k, v; `pairs`: a further condition on which pairs count."""
        query, key = place[:, None], place[None]
        seen = self.seen(query, key, mask)
        if pairs is not None:
            seen = pairs if seen is None else seen & pairs
        return self.weigh(self.scores(q, k, query - key), seen) @ self.every_head(v)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.merge(self.mix(x, mask))

    def cache_size(self, length: int) -> int:
        return length

    def slot(self, place: Tensor, size: int) -> Tensor:
        return place

    def places(self, place: Tensor, size: int) -> Tensor:
        return torch.arange(size, device=place.device)

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        weight, size = self.out.weight, self.cache_size(length)
        cache = weight.new_zeros(2, batch, self.kv_heads, size, self.width)
        return cache[0], cache[1], torch.zeros(1, dtype=torch.long, device=weight.device)

    def recall(
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor], pairs: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """The mixed values of one token, and the state that holds it."""
        keys, values, place = state
        q, k, v = self.project(x, x, place)
        slot = self.slot(place, keys.shape[2])
        keys, values = keys.index_copy(2, slot, k), values.index_copy(2, slot, v)
        query, key = place[:, None], self.places(place, keys.shape[2])[None]
        seen = (key >= 0) & (key <= query)
        for further in (self.allowed(query, key), pairs):
            seen = seen if further is None else seen & further
        weights = self.weigh(self.scores(q, keys, query - key), seen)
        return weights @ self.every_head(values), (keys, values, place + 1)

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        y, state = self.recall(x, state)
        return self.merge(y), state


ENGINE: tuple[Callable[..., Any], ...] = (
    split_heads,
    masked_softmax,
    alibi_slopes,
    *MEETING,
    ScoreAttention,
)


def head_params(*positions: str) -> dict[str, Domain]:
    """`heads`, `causal` and `pos`, as every variant takes them."""
    return {
        "heads": Int(1, 64),
        "causal": Flag(),
        "pos": Word(positions or ("none", "rope", "alibi"), default="none"),
    }


def attention_shape(x: TensorType, heads: int, pos: str = "none") -> TensorType:
    """The input's own type. Raises: Mismatch where the heads or rotary pairs do not fit."""
    need(x, "seq")
    need_divides(heads, x.dim)
    if pos in ("rope", "xpos") and x.dim // heads % 2:
        raise Mismatch(f"rotary needs an even head width, got {x.dim // heads}", param="pos")
    return x


def attention_cost(
    x: TensorType,
    heads: int,
    causal: bool,
    *,
    params: int = 0,
    flops: int = 0,
    rows: int | None = None,
) -> Cost:
    """Multi-head attention with written-out scores, and what a variant adds; `rows` of cache."""
    t, d = x.length, x.dim
    state = causal * (8 * (t if rows is None else rows) * d + 8)
    flops += 8 * t * d * d + 4 * t * t * d
    return Cost(4 * d * d + params, flops, 16 * t * d + 8 * heads * t * t, state)
