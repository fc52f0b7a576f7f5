"""Softmax attention: multi-head, grouped-query, multi-query; to itself or to another sequence.

    y_t = W_o concat_h sum_s softmax_s(q_t . k_s / sqrt(K) + p_h(t, s)) v_s

Shapes: x [B, T, D] -> [B, T, D], K = D / heads. `kv_heads` key/value heads, each read by
heads/kv_heads query heads (1: MQA). `kv` [B, S, kv_dim]: keys and values come from there.
Causal with the flag `causal` (s <= t), else not causal and without steps.
`pos`: rotary on q and k, or ALiBi's p = -slope_h |t - s|; `qk_norm`: RMS norm of q and k per head.
Mask: keys at padding are left out. State (causal only): keys and values of all tokens so far,
2 [B, kv_heads, length, K], and the position.
Cost, with P = 2 kv_heads K: 2 D^2 + kv_dim P parameters; 4 T D^2 + 2 S kv_dim P + 4 T S D FLOPs.
Papers: Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Int, Word
from ops.kernels.positions import alibi_slopes, rotary
from ops.spec import Cost, Input, Mismatch, Op, TensorType, need, need_divides


class SoftmaxAttention(nn.Module):
    slopes: Tensor

    def __init__(
        self,
        dim: int,
        heads: int,
        kv_heads: int | None = None,
        causal: bool = False,
        pos: str = "none",
        bias: bool = False,
        qk_norm: bool = False,
        kv_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads or heads
        self.width, self.causal, self.pos = dim // heads, causal, pos
        self.q = nn.Linear(dim, dim, bias=bias)
        self.kv = nn.Linear(kv_dim or dim, 2 * self.kv_heads * self.width, bias=bias)
        self.out = nn.Linear(dim, dim, bias=bias)
        self.q_scale = nn.Parameter(torch.ones(self.width)) if qk_norm else None
        self.k_scale = nn.Parameter(torch.ones(self.width)) if qk_norm else None
        if pos == "alibi":
            self.register_buffer("slopes", alibi_slopes(heads), persistent=False)

    def project(self, x: Tensor, kv: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = self.q(x).unflatten(-1, (self.heads, self.width)).transpose(1, 2)
        k, v = self.kv(kv).unflatten(-1, (2, self.kv_heads, self.width)).permute(2, 0, 3, 1, 4)
        if self.q_scale is not None:
            q = F.rms_norm(q, (self.width,), self.q_scale, 1e-6)
            k = F.rms_norm(k, (self.width,), self.k_scale, 1e-6)
        if self.pos == "rope":
            q, k = rotary(q, position), rotary(k, position)
        return q, k, v

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, causal: bool = False
    ) -> Tensor:
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, is_causal=causal, enable_gqa=self.kv_heads != self.heads
        )
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out

    def logit_bias(self, distance: Tensor, seen: Tensor | None, like: Tensor) -> Tensor | None:
        """What is added to the logits; `distance` is t - s, `seen` says which keys count."""
        if self.pos != "alibi":
            return seen
        bias = -self.slopes.to(like.dtype)[:, None, None] * distance.abs()
        return bias if seen is None else bias.masked_fill(~seen, float("-inf"))

    def forward(self, x: Tensor, kv: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        position = torch.arange(x.shape[1], device=x.device)
        q, k, v = self.project(x, x if kv is None else kv, position)
        if kv is not None or (mask is None and self.pos != "alibi"):
            return self.attend(q, k, v, None, self.causal)
        distance = position[:, None] - position
        seen = distance >= 0 if self.causal else None
        if mask is not None:
            keys = mask[:, None, None, :]
            seen = keys if seen is None else (seen & keys) | (distance == 0)
        return self.attend(q, k, v, self.logit_bias(distance, seen, q))

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        cache = self.out.weight.new_zeros(2, batch, self.kv_heads, length, self.width)
        return cache[0], cache[1], torch.zeros(1, dtype=torch.long, device=cache.device)

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        keys, values, position = state
        q, k, v = self.project(x, x, position)
        keys, values = keys.index_copy(2, position, k), values.index_copy(2, position, v)
        distance = position - torch.arange(keys.shape[2], device=x.device)[None]
        y = self.attend(q, keys, values, self.logit_bias(distance, distance >= 0, q))
        return y, (keys, values, position + 1)


def _shape(
    x: TensorType,
    kv: TensorType | None,
    heads: int,
    kv_heads: int | None,
    causal: bool,
    pos: str,
    bias: bool,
    qk_norm: bool,
    kv_dim: int | None,
) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    if kv_heads is not None and heads % kv_heads:
        fits = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise Mismatch(
            f"kv_heads={kv_heads} does not divide heads={heads}",
            param="kv_heads",
            hint=f"kv_heads may be {fits} here",
        )
    if pos == "rope" and x.dim // heads % 2:
        raise Mismatch(f"rotary needs an even head width, got {x.dim // heads}", param="pos")
    if kv is None:
        if kv_dim is not None and kv_dim != x.dim:
            raise Mismatch(f"kv_dim={kv_dim} without kv", param="kv_dim", hint="leave kv_dim out")
        return x
    need(kv, "seq")
    if causal:
        raise Mismatch("another sequence has no causal order", param="causal")
    if pos != "none":
        raise Mismatch(f"pos={pos} compares places of one sequence, not of two", param="pos")
    if kv.dim != (kv_dim or x.dim):
        raise Mismatch(f"kv has width {kv.dim}", param="kv", hint=f"say kv_dim={kv.dim}")
    if kv.may_pad:
        raise Mismatch("kv may be padded, and its mask is not known here", param="kv")
    return x


def _cost(
    x: TensorType,
    kv: TensorType | None,
    heads: int,
    kv_heads: int | None,
    causal: bool,
    pos: str,
    bias: bool,
    qk_norm: bool,
    kv_dim: int | None,
) -> Cost:
    source = x if kv is None else kv
    width, t, s, d = x.dim // heads, x.length, source.length, x.dim
    pair = 2 * (kv_heads or heads) * width
    params = 2 * d * d + source.dim * pair + bias * (2 * d + pair) + qk_norm * 2 * width
    flops = 4 * t * d * d + 2 * s * source.dim * pair + 4 * t * s * d
    return Cost(params, flops, 4 * (2 * t * d + s * pair), causal * (4 * t * pair + 8))


OP = Op(
    name="softmax_attn",
    module=SoftmaxAttention,
    params={
        "heads": Int(1, 64),
        "kv_heads": Int(1, 64, default=None, none=True),
        "causal": Flag(),
        "pos": Word(("none", "rope", "alibi"), default="none"),
        "bias": Flag(),
        "qk_norm": Flag(),
        "kv_dim": Int(1, 65536, log=True, default=None, none=True),
    },
    inputs=(Input("kv", "static", optional=True),),
    shape=_shape,
    cost=_cost,
    causal=lambda x, causal, **_: causal,
    mask="use",
    state=True,
    uses=(alibi_slopes, rotary),
    paper="arXiv:1706.03762",
)
