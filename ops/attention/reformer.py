"""Reformer attention: tokens meet in chunks, sorted by a locality-sensitive hash of shared queries.

    round r: bucket = argmax [x R_r; -x R_r], x = q;  sort by (bucket, place), cut in chunks of b;
             a chunk sees itself and the one before (the first sees the last), k = q / |q|
    z = q . k / sqrt(K), itself -5e4 (only where it is alone);  o = sum_r softmax_r(lse_r) o_r

Not causal: chunks depend on all tokens (the flag `ordered` keeps values of later tokens out, not
their influence on the chunks). Shapes: x [B, T, D] -> [B, T, D], K = D / heads; chunks of `chunk`
tokens, ceil(T / chunk) buckets (made even). Rotations are drawn from the seed at building and kept,
the same for all heads; the length is fixed at building. Mask: padding has a last bucket of its own
and is never seen. Cost: 3 D^2 parameters; 6 T D^2 + rounds (T' n D + 8 T' b D) FLOPs, T' = T
rounded up to b, n buckets (4 T' b D where one chunk holds all). Paper: Kitaev et al. 2020,
"Reformer", arXiv:2001.04451, section 2. Differs: rotations do not change from call to call; the
ring of chunks closes within a round; a pair met in several rounds counts in each.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Int
from ops.attention.engine import split_heads
from ops.spec import Cost, Op, TensorType, need, need_divides


def attend_lse(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax attention and the log-sum-exp of its logits; a key with bias -inf is not seen."""
    scores = q @ k.mT * q.shape[-1] ** -0.5 + bias.clamp_min(torch.finfo(q.dtype).min / 4)
    lse = torch.logsumexp(scores, -1, keepdim=True)
    return ((scores - lse).exp() * (bias > float("-inf"))) @ v, lse


class ReformerAttention(nn.Module):
    turns: Tensor

    def __init__(
        self,
        dim: int,
        heads: int,
        chunk: int,
        rounds: int,
        ordered: bool,
        buckets: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.heads, self.chunk, self.ordered = heads, chunk, ordered
        self.qk = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(rounds, dim // heads, buckets // 2, generator=generator)
        self.register_buffer("turns", drawn)

    def order(self, q: Tensor, turn: Tensor, real: Tensor) -> Tensor:
        """The tokens sorted by (bucket, place), padding last: [B, heads, T]."""
        turned = q @ turn.to(q.dtype)
        bucket = torch.cat([turned, -turned], dim=-1).argmax(-1)
        bucket = bucket.masked_fill(~real[:, None], 2 * turn.shape[-1])
        place = torch.arange(q.shape[2], device=q.device)
        return (bucket * q.shape[2] + place).argsort(-1)

    def once(self, q: Tensor, v: Tensor, real: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
        """One round: o [B, heads, T, K] and its lse [B, heads, T, 1], in the order of places."""
        order = self.order(q, turn, real)
        spread = order[..., None].expand_as(q)
        q, v = (torch.unflatten(z.gather(2, spread), 2, (-1, self.chunk)) for z in (q, v))
        place = torch.unflatten(order, 2, (-1, self.chunk))
        held = real[:, None].expand_as(order).gather(2, order).view_as(place)
        k = F.normalize(q, dim=-1, eps=1e-6)
        if place.shape[2] > 1:
            k, v = (torch.cat([z, z.roll(1, 2)], dim=3) for z in (k, v))
            keys, seen = (torch.cat([z, z.roll(1, 2)], dim=3) for z in (place, held))
        else:
            keys, seen = place, held
        bias = (place[..., None] == keys[..., None, :]).to(q.dtype) * -5e4
        closed = ~seen[..., None, :]
        if self.ordered:
            closed = closed | (place[..., None] < keys[..., None, :])
        o, lse = attend_lse(q, k, v, bias.masked_fill(closed, float("-inf")))
        back = order.argsort(-1)[..., None]
        o, lse = o.flatten(2, 3), lse.flatten(2, 3)
        return o.gather(2, back.expand_as(o)), lse.gather(2, back)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        t = x.shape[1]
        pad = -t % self.chunk
        real = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
        real = F.pad(real, (0, pad))
        q, v = (F.pad(split_heads(z, self.heads), (0, 0, 0, pad)) for z in (self.qk(x), self.v(x)))
        rounds = [self.once(q, v, real, turn) for turn in self.turns]
        share = torch.stack([lse for _, lse in rounds]).softmax(0)
        o = (torch.stack([o for o, _ in rounds]) * share).sum(0)
        y: Tensor = self.out(o[:, :, :t].transpose(1, 2).flatten(2))
        return y


def _buckets(x: TensorType, chunk: int) -> int:
    count = -(-x.length // chunk)
    return max(2, count + count % 2)


def _init(x: TensorType, chunk: int, **params: Any) -> dict[str, Any]:
    return {"dim": x.dim, "chunk": chunk, "buckets": _buckets(x, chunk), **params}


def _shape(x: TensorType, heads: int, **_: object) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    return x


def _cost(x: TensorType, heads: int, chunk: int, rounds: int, **_: object) -> Cost:
    t, d = x.length, x.dim
    count = -(-t // chunk)
    padded, keys = count * chunk, chunk * min(2, count)
    flops = 6 * t * d * d + rounds * (padded * _buckets(x, chunk) * d + 4 * padded * keys * d)
    kept = 4 * rounds * (6 * padded * d + 3 * heads * padded * keys)
    return Cost(3 * d * d, flops, kept)


OP = Op(
    name="reformer_attn",
    module=ReformerAttention,
    params={
        "heads": Int(1, 64),
        "chunk": Int(1, 4096, log=True, default=64),
        "rounds": Int(1, 64, default=8),
        "ordered": Flag(),
    },
    init=_init,
    shape=_shape,
    cost=_cost,
    causal=False,
    needs=("seed",),
    fixed_length=True,
    mask="use",
    uses=(split_heads, attend_lse),
    paper="arXiv:2001.04451",
)
