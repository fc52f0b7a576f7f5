"""Echo attention: the attention weights of an earlier layer, values of its own.

    A = exp(q k^T - lse)  of the leader,   y = W_o concat_h A_h (x W_v)

`qk` is the leader's export q; its k and lse come along by themselves. The weights are computed anew
from them (they are never stored), equal to the leader's with its positions, scale and sink. Causal
unless `causal=false`; heads, kv_heads and causal must be the leader's. Shapes: x [B, T, D] -> [B,
T, D]; qk [B, T, D], k [B, T, P], lse [B, T, heads], P = kv_heads D / heads. There is no W_q, W_k.
Mask: keys at padding are left out. State: the leader's keys and own values of all tokens so far,
and the position. Cost: D^2 + D P parameters; 2 T D^2 + 2 T D P + 4 T^2 D FLOPs. Paper: Zheng et al.
2024, "EchoAtt", arXiv:2409.14595, section 3 (reuse inside a block of layers).
"""

import torch
from torch import Tensor, nn

from grammar.domain import Flag, Int
from ops.attention.engine import split_heads
from ops.spec import Cost, Input, Mismatch, Op, TensorType, need, need_divides


class EchoAttention(nn.Module):
    def __init__(
        self, dim: int, heads: int, kv_heads: int | None = None, causal: bool = True
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.causal = heads, kv_heads or heads, causal
        self.v = nn.Linear(dim, self.kv_heads * (dim // heads), bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def echo(self, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, seen: Tensor | None) -> Tensor:
        shared = self.heads // self.kv_heads
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        logits = q @ k.mT - lse.mT[..., None]
        if seen is not None:
            logits = logits.masked_fill(~seen, torch.finfo(logits.dtype).min)
        y: Tensor = self.out((logits.exp() @ v).transpose(1, 2).flatten(2))
        return y

    def forward(
        self, x: Tensor, qk: Tensor, k: Tensor, lse: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        place = torch.arange(x.shape[1], device=x.device)
        seen = place[:, None] >= place if self.causal else None
        if mask is not None:
            keys = mask[:, None, None, :]
            seen = keys if seen is None else seen & keys
        q, v = split_heads(qk, self.heads), split_heads(self.v(x), self.kv_heads)
        return self.echo(q, split_heads(k, self.kv_heads), v, lse, seen)

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        weight = self.v.weight
        width = weight.shape[0] // self.kv_heads
        cache = weight.new_zeros(2, batch, self.kv_heads, length, width)
        return cache[0], cache[1], torch.zeros(1, dtype=torch.long, device=weight.device)

    def step(
        self,
        x: Tensor,
        state: tuple[Tensor, Tensor, Tensor],
        qk: Tensor,
        k: Tensor,
        lse: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        keys, values, place = state
        keys = keys.index_copy(2, place, split_heads(k, self.kv_heads))
        values = values.index_copy(2, place, split_heads(self.v(x), self.kv_heads))
        seen = torch.arange(keys.shape[2], device=x.device)[None] <= place[:, None]
        y = self.echo(split_heads(qk, self.heads), keys, values, lse, seen)
        return y, (keys, values, place + 1)


def _shape(
    x: TensorType,
    qk: TensorType,
    k: TensorType | None,
    lse: TensorType | None,
    heads: int,
    kv_heads: int | None,
    causal: bool,
) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    groups = kv_heads or heads
    if heads % groups:
        raise Mismatch(f"kv_heads={groups} does not divide heads={heads}", param="kv_heads")
    wanted = {"qk": x.dim, "k": x.dim // heads * groups, "lse": heads}
    for (name, width), given in zip(wanted.items(), (qk, k, lse), strict=True):
        if given is None or (given.kind, given.shape) != ("seq", (x.length, width)):
            raise Mismatch(f"the leader's {name} is {given}, not {x.with_dim(width)}", param="qk")
    return x


def _cost(
    x: TensorType,
    qk: TensorType,
    k: TensorType,
    lse: TensorType,
    heads: int,
    kv_heads: int | None,
    causal: bool,
) -> Cost:
    t, d = x.length, x.dim
    pair = d // heads * (kv_heads or heads)
    flops = 2 * t * d * d + 2 * t * d * pair + 4 * t * t * d
    return Cost(d * d + d * pair, flops, 8 * t * d + 8 * heads * t * t, causal * (8 * t * pair + 8))


OP = Op(
    name="echo_attn",
    module=EchoAttention,
    params={
        "heads": Int(1, 64),
        "kv_heads": Int(1, 64, default=None, none=True),
        "causal": Flag(default=True),
    },
    inputs=(
        Input("qk", "stream", agree=("heads", "kv_heads", "causal")),
        Input("k", "stream", optional=True, beside=("qk", "k")),
        Input("lse", "stream", optional=True, beside=("qk", "lse")),
    ),
    shape=_shape,
    cost=_cost,
    causal=lambda x, *_, causal, **__: causal,
    mask="use",
    state=True,
    uses=(split_heads,),
    paper="arXiv:2409.14595",
    example="seq[64,64]: softmax_attn(heads=4, causal) as lead >> echo_attn(heads=4, qk=@lead.q)",
)
