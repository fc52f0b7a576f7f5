"""HyperAttention: sorted blocks exactly, the rest of the softmax by a uniform sample of keys.

    hash: bits [x . P > 0] read as a Gray code, so that neighbouring buckets differ in one bit
    sort q and k by their buckets, cut both in blocks of b:   o1, lse1: softmax inside the block
    m keys drawn uniformly, those of the own block left out:  o2, lse2 + log(T / m)
    o = (e^lse1 o1 + e^lse2 o2) / (e^lse1 + e^lse2);  T <= `exact`: plain softmax attention
    causal: halves 1, 2 by recursion; the lower left quarter by the above, merged by lse

The sum of the sampled exponentials has the right mean. Causal with the flag `causal` as long as T
<= `exact`; beyond, values of later tokens stay out, but queries of the same half decide who shares
a block, and the op counts as not causal. Shapes: x [B, T, D] -> [B, T, D], K = D / heads. P and the
sample come from the seed: the same in every call and every row, a sample for each head. Mask: keys
at padding sort last and are not seen. State (causal only): keys and values of all tokens so far,
and the position. `sample=0`: blocks alone; `bits=0`: no sort. Cost: 4 D^2 parameters; 8 T D^2 + 4 T
D r + 4 T' (b + m) D FLOPs, T' = T rounded up to b, r = `bits` (4 T^2 D if exact; causal: the sum
over the recursion). Paper: Han et al. 2023, "HyperAttention", arXiv:2310.05869, algorithms 1, 3, 4;
one sample for both numerator and denominator as in the released code, whose hash encodes where it
should decode.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Int
from ops.attention.engine import split_heads
from ops.attention.reformer import attend_lse
from ops.spec import Cost, Op, TensorType, need, need_divides


def gray_rank(code: Tensor) -> Tensor:
    """Where a Gray code below 2^16 stands among the Gray codes."""
    for shift in (1, 2, 4, 8):
        code = code ^ (code >> shift)
    return code


def merge_lse(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Softmax attention over two disjoint sets of keys, from each one's output and lse."""
    lse = torch.logaddexp(first[1], second[1])
    return first[0] * (first[1] - lse).exp() + second[0] * (second[1] - lse).exp(), lse


class HyperAttention(nn.Module):
    planes: Tensor
    uniform: Tensor

    def __init__(
        self,
        dim: int,
        heads: int,
        causal: bool,
        block: int,
        sample: int,
        bits: int,
        exact: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.heads, self.causal, self.block = heads, causal, block
        self.sample, self.exact = sample, exact
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("planes", torch.randn(dim // heads, bits, generator=generator))
        self.register_buffer("uniform", torch.rand(heads, sample, generator=generator))

    def order(self, x: Tensor, real: Tensor) -> Tensor:
        """The tokens sorted by bucket, stably, padding last."""
        bits = self.planes.shape[1]
        code = torch.zeros_like(x[..., 0], dtype=torch.long)
        if bits:
            power = 2 ** torch.arange(bits, device=x.device)
            code = gray_rank(((x @ self.planes.to(x.dtype)) > 0).long().mul(power).sum(-1))
        return code.masked_fill(~real[:, None], 2**bits).argsort(dim=-1, stable=True)

    def drawn(self, count: int) -> Tensor:
        """The sampled keys, as places in sorted order: [heads, m]."""
        return (self.uniform * count).long().clamp_max(count - 1)

    def hidden(self, real: Tensor, like: Tensor) -> Tensor:
        """0 for tokens, -inf for padding."""
        return torch.zeros_like(real, dtype=like.dtype).masked_fill(~real, float("-inf"))

    def approximate(
        self, q: Tensor, k: Tensor, v: Tensor, real: Tensor, asked: Tensor
    ) -> tuple[Tensor, Tensor]:
        """o and lse without order; `real` [B, T] of the keys, `asked` of the queries."""
        count = k.shape[2]
        if count <= max(self.exact, self.block):
            return attend_lse(q, k, v, self.hidden(real, q)[:, None, None])
        row_order, order = self.order(q, asked), self.order(k, real)
        q = q.gather(2, row_order[..., None].expand_as(q))
        k, v = (z.gather(2, order[..., None].expand_as(z)) for z in (k, v))
        bias = self.hidden(real, q)[:, None].expand_as(order).gather(2, order)
        pad = -count % self.block
        q, k, v = (F.pad(z, (0, 0, 0, pad)) for z in (q, k, v))
        bias = F.pad(bias, (0, pad), value=float("-inf"))
        rows, keys, values = (torch.unflatten(z, 2, (-1, self.block)) for z in (q, k, v))
        own = torch.unflatten(bias, 2, (-1, self.block))[..., None, :]
        o, lse = (z.flatten(2, 3) for z in attend_lse(rows, keys, values, own))
        if self.sample:
            drawn = self.drawn(count).expand(q.shape[0], -1, -1)
            far = bias.gather(2, drawn)[..., None, :]
            place = torch.arange(q.shape[2], device=q.device)[:, None] // self.block
            far = far.masked_fill(place == (drawn // self.block)[..., None, :], float("-inf"))
            spread = drawn[..., None].expand(-1, -1, -1, k.shape[3])
            sampled, mass = attend_lse(q, k.gather(2, spread), v.gather(2, spread), far)
            mass = mass + math.log(count / self.sample)
            o, lse = merge_lse((o, lse), (sampled, mass))
        back = row_order.argsort(-1)[..., None]
        return o.gather(2, back.expand(-1, -1, -1, o.shape[3])), lse.gather(2, back)

    def halves(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """The causal form, by recursion."""
        count = q.shape[2]
        if count <= self.exact:
            place = torch.arange(count, device=q.device)
            late = (place[:, None] < place).to(q.dtype)
            later = torch.zeros_like(late).masked_fill(late > 0, float("-inf"))
            return attend_lse(q, k, v, later + self.hidden(real, q)[:, None, None])
        half = (count + 1) // 2
        pad = 2 * half - count
        q, k, v = (F.pad(z, (0, 0, 0, pad)) for z in (q, k, v))
        real = F.pad(real, (0, pad))
        (q, q_late), (k, k_late), (v, v_late) = (torch.split(z, half, 2) for z in (q, k, v))
        real, real_late = torch.split(real, half, 1)
        first = self.halves(q, k, v, real)
        second = self.halves(q_late, k_late, v_late, real_late)
        past = self.approximate(q_late, k, v, real, real_late)
        merged = merge_lse(second, past)
        o, lse = (
            torch.cat([a, b], dim=2)[:, :, :count] for a, b in zip(first, merged, strict=True)
        )
        return o, lse

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (split_heads(z, self.heads) for z in self.qkv(x).chunk(3, -1))
        real = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
        o = (self.halves(q, k, v, real) if self.causal else self.approximate(q, k, v, real, real))[
            0
        ]
        y: Tensor = self.out(o.transpose(1, 2).flatten(2))
        return y

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        weight = self.out.weight
        cache = weight.new_zeros(2, batch, self.heads, length, weight.shape[0] // self.heads)
        return cache[0], cache[1], torch.zeros(1, dtype=torch.long, device=weight.device)

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        keys, values, place = state
        q, k, v = (split_heads(z, self.heads) for z in self.qkv(x).chunk(3, -1))
        keys, values = keys.index_copy(2, place, k), values.index_copy(2, place, v)
        known = torch.arange(keys.shape[2], device=x.device) <= place
        o, _ = attend_lse(q, keys, values, self.hidden(known, q))
        return self.out(o.transpose(1, 2).flatten(2)), (keys, values, place + 1)


def _core_flops(count: int, dim: int, block: int, sample: int, bits: int, exact: int) -> int:
    if count <= max(exact, block):
        return 4 * count * count * dim
    padded = -(-count // block) * block
    return 4 * count * dim * bits + 4 * padded * (block + sample) * dim


def _causal_flops(count: int, dim: int, block: int, sample: int, bits: int, exact: int) -> int:
    if count <= exact:
        return 4 * count * count * dim
    half = (count + 1) // 2
    rest = (dim, block, sample, bits, exact)
    return 2 * _causal_flops(half, *rest) + _core_flops(half, *rest)


def _shape(x: TensorType, heads: int, **_: object) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    return x


def _cost(
    x: TensorType,
    heads: int,
    causal: bool,
    block: int,
    sample: int,
    bits: int,
    exact: int,
    **_: object,
) -> Cost:
    t, d = x.length, x.dim
    count = _causal_flops if causal else _core_flops
    flops = 8 * t * d * d + count(t, d, block, sample, bits, exact)
    state = (causal and t <= exact) * (8 * t * d + 8)
    return Cost(4 * d * d, flops, 4 * (6 * t * d + 3 * heads * t * min(t, block + sample)), state)


def _causal(x: TensorType, *_: object, causal: bool, exact: int, **__: Any) -> bool:
    return causal and x.length <= exact


OP = Op(
    name="hyper_attn",
    module=HyperAttention,
    params={
        "heads": Int(1, 64),
        "causal": Flag(),
        "block": Int(1, 65536, log=True, default=256),
        "sample": Int(0, 65536, log=True, default=256),
        "bits": Int(0, 16, default=7),
        "exact": Int(1, 2**20, log=True, default=4096),
    },
    shape=_shape,
    cost=_cost,
    causal=_causal,
    needs=("seed",),
    mask="use",
    state=True,
    uses=(split_heads, attend_lse, gray_rank, merge_lse),
    paper="arXiv:2310.05869",
)
