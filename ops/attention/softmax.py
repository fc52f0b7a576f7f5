"""Softmax attention: multi-head, grouped-query, multi-query; to itself or to another sequence.

    y_t = W_o concat_h (gate_t *) sum_s softmax_s(z_ts) v_s,   z_ts = scale q_t . k_s + p_h(t, s)

Shapes: x [B, T, D] -> [B, T, D], K = D / heads. `kv_heads` key/value heads, each read by
heads/kv_heads query heads (1: MQA). `kv` [B, S, kv_dim]: keys and values come from there, its
padding left out. Causal with the flag `causal` (s <= t), else not causal and without steps.
`pos`: rotary; ALiBi's p = -slope_h |t - s|; `t5` buckets; `xpos` (causal only); `lrpe` with learned
angles; `learned`: p from a table of clipped distances, 128 a side. `qk_norm`: RMS norm of q and k
per head. `scale`: 1/sqrt(K) unless given. `cap`: z -> cap tanh(z / cap). `sink`: a further key
without value, its logit 0 (`one`: softmax-off-by-one) or learned per head. `gate`: the mixed values
times sigmoid(x W_g), by channel or by head.
Exports q [B, T, heads K'], k [B, S, kv_heads K'] as they meet (scale and positions in them, K' is
2 K for lrpe) and lse [B, T, heads]: the weights are exp(q.k - lse). Never the weights themselves;
nothing where cap or a p that adds stand between.
Mask: keys at padding are left out. State (causal only): keys and values of all tokens so far, [B,
kv_heads, length, K' and K], and the position.
Cost, with P = 2 kv_heads K: 2 D^2 + kv_dim P parameters; 4 T D^2 + 2 S kv_dim P + 4 T S D FLOPs
(lrpe: 6 T S D), before gate and tables.
Papers: Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245 (groups); Henry
et al. 2020, arXiv:2010.04245 (qk norm; here the RMS form); Xiao et al. 2023, arXiv:2309.17453,
section 3.3 (sinks); Gemma Team 2024, arXiv:2408.00118 (cap); Qiu et al. 2025, arXiv:2505.06708
(gate); Liu et al. 2021, arXiv:2103.14030, eq. 4 (learned, there in two dimensions).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Float, Int, Word
from ops.attention.engine import ENGINE, ScoreAttention, attention_shape, split_heads
from ops.kernels.dispatch import on_triton
from ops.kernels.positions import meeting
from ops.kernels.relative import by_gap, lrpe, t5_bucket, xpos_scale
from ops.kernels.rows import LOOKED_UP, looked_up
from ops.kernels.sparse import SPARSE, SparsePattern, sparse_attention
from ops.spec import Cost, Input, Mismatch, Op, TensorType, need


class SoftmaxAttention(ScoreAttention):
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
        scale: float | None = None,
        cap: float | None = None,
        sink: str = "none",
        gate: str = "none",
    ) -> None:
        super().__init__(dim, heads, causal, pos, kv_heads, bias, kv_dim)
        self.scale, self.cap, self.sink_kind = scale or self.scale, cap, sink
        self.q_scale = nn.Parameter(torch.ones(self.width)) if qk_norm else None
        self.k_scale = nn.Parameter(torch.ones(self.width)) if qk_norm else None
        gates = {"none": 0, "head": heads, "channel": dim}[gate]
        self.gate = nn.Linear(dim, gates, bias=False) if gates else None
        self.sink = nn.Parameter(torch.zeros(heads)) if sink == "learned" else None
        if pos in ("t5", "learned"):
            rows = 32 if pos == "t5" else 129 if causal else 257
            self.table = nn.Parameter(0.02 * torch.randn(rows, heads))
        if pos == "lrpe":
            count = self.kv_heads * self.width
            angles = torch.exp(torch.arange(count) * (-2 * math.log(10000.0) / count))
            self.theta = nn.Parameter(angles.view(self.kv_heads, self.width))

    def project(self, x: Tensor, kv: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gains = None
        if self.q_scale is not None and self.k_scale is not None:
            gains = self.q_scale, self.k_scale
        turn = self.pos in ("rope", "xpos")
        q, k, v = meeting(self.q(x), self.kv(kv), place, self.width, gains=gains, turn=turn)
        if self.pos == "xpos":
            q = (q * xpos_scale(place, self.width, 1, q)).to(q.dtype)
            k = (k * xpos_scale(place, self.width, -1, k)).to(k.dtype)
        if self.pos == "lrpe":
            shared = self.heads // self.kv_heads
            q = lrpe(q, place, self.theta.repeat_interleave(shared, 0))
            k = lrpe(k, place, self.theta)
        return q, k, v

    def bias(self, gap: Tensor, like: Tensor) -> Tensor | None:
        """p [heads, T, S], where positions add to the logits; gap is t - s."""
        if self.pos == "alibi":
            return -self.slopes.to(like.dtype)[:, None, None] * gap.abs()
        if self.pos not in ("t5", "learned"):
            return None
        line = torch.cat([gap[:, 0].flip(0), gap[0, 1:]])
        if self.pos == "t5":
            rows = t5_bucket(line, self.causal)
        else:
            rows = line.clamp(0, 128) if self.causal else line.clamp(-128, 128) + 128
        return by_gap(looked_up(rows, self.table).T, len(gap)).to(like.dtype)

    def scores(self, q: Tensor, k: Tensor, gap: Tensor) -> Tensor:
        scores = q @ self.every_head(k).mT * self.scale
        bias = self.bias(gap, q)
        scores = scores if bias is None else scores + bias
        return scores if self.cap is None else self.cap * torch.tanh(scores / self.cap)

    def normal(self, scores: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor]:
        """The weights, and log sum_s e^z over the keys that are seen and the sink."""
        if seen is not None:
            scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        lse = torch.logsumexp(scores, -1, keepdim=True)
        if self.sink is not None:
            lse = torch.logaddexp(lse, self.sink.to(lse.dtype)[:, None, None])
        elif self.sink_kind == "one":
            lse = torch.logaddexp(lse, torch.zeros_like(lse))
        weights = (scores - lse).exp()
        return weights if seen is None else weights * seen, lse

    def gated(self, y: Tensor, x: Tensor) -> Tensor:
        """[B, heads, T, K] -> [B, T, D]."""
        if self.gate is not None:
            y = y * split_heads(self.gate(x).sigmoid(), self.heads)
        return self.merge(y)

    def finish(
        self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, scores: Tensor, seen: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """y and the exports."""
        weights, lse = self.normal(scores, seen)
        return self.exported(x, q, k, weights @ self.every_head(v), lse[..., 0])

    def exported(
        self, x: Tensor, q: Tensor, k: Tensor, y: Tensor, lse: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """y and the exports of mixed values and lse [B, heads, T]."""
        q = (q * self.scale).transpose(1, 2).flatten(2)
        return self.gated(y, x), q, k.transpose(1, 2).flatten(2), lse.mT

    def pairs(self, x: Tensor, source: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The gap of each pair and which pairs count."""
        query = torch.arange(x.shape[1], device=x.device)[:, None]
        key = torch.arange(source.shape[1], device=x.device)[None]
        return query - key, self.seen(query, key, keep)

    def walk(
        self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """The mixed values and lse by the sparse engine; None where it does not serve."""
        known = self.pos in ("none", "rope", "xpos", "alibi") and q.shape[2] == k.shape[2]
        if not (known and on_triton(q, k, v)):
            return None
        sinks = torch.zeros_like(q[0, :, 0, 0]) if self.sink_kind == "one" else self.sink
        return sparse_attention(
            q,
            k,
            v,
            SparsePattern(ahead=0 if self.causal else 2**30),
            scale=self.scale,
            cap=self.cap,
            slopes=self.slopes if self.pos == "alibi" else None,
            sinks=sinks,
            real=keep,
        )

    def forward(  # type: ignore[override]  # another sequence, and exports
        self,
        x: Tensor,
        kv: Tensor | None = None,
        kv_mask: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        source, keep = (x, mask) if kv is None else (kv, kv_mask)
        q, k, v = self.project(x, source, torch.arange(x.shape[1], device=x.device))
        walked = self.walk(q, k, v, keep)
        if walked is None:
            gap, seen = self.pairs(x, source, keep)
            return self.finish(x, q, k, v, self.scores(q, k, gap), seen)
        return self.exported(x, q, k, *walked)

    def alone(
        self,
        x: Tensor,
        kv: Tensor | None = None,
        kv_mask: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """y only, by torch's fused kernel; with cap, sink, ALiBi or padding by the engine."""
        if self.cap is not None or self.sink_kind != "none":
            return self.forward(x, kv, kv_mask, mask)[0]
        source, keep = (x, mask) if kv is None else (kv, kv_mask)
        q, k, v = self.project(x, source, torch.arange(x.shape[1], device=x.device))
        plain, seen, bias = keep is None, None, None
        fused = plain and self.pos not in ("alibi", "t5", "learned")
        walked = None if fused else self.walk(q, k, v, keep)
        if walked is not None:
            return self.gated(walked[0], x)
        if not fused:
            gap, seen = self.pairs(x, source, keep)
            bias = self.bias(gap, q)
            if bias is not None and seen is not None:
                bias = bias.masked_fill(~seen, torch.finfo(bias.dtype).min)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=seen if bias is None else bias,
            is_causal=self.causal and fused,
            scale=self.scale,
            enable_gqa=self.kv_heads != self.heads,
        )
        if not plain and seen is not None:
            y = y.masked_fill(~seen.any(-1, keepdim=True), 0.0)  # a row that sees no key
        return self.gated(y, x)

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        weight, wide = self.out.weight, self.width * (2 if self.pos == "lrpe" else 1)
        keys = weight.new_zeros(batch, self.kv_heads, length, wide)
        values = weight.new_zeros(batch, self.kv_heads, length, self.width)
        return keys, values, torch.zeros(1, dtype=torch.long, device=weight.device)

    def step_all(
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """One token: y, its exports (the key of this token), the state."""
        keys, values, place = state
        q, k, v = self.project(x, x, place)
        keys, values = keys.index_copy(2, place, k), values.index_copy(2, place, v)
        gap = place[:, None] - torch.arange(keys.shape[2], device=x.device)
        y, q, _, lse = self.finish(x, q, keys, values, self.scores(q, keys, gap), gap >= 0)
        return y, q, k.transpose(1, 2).flatten(2), lse, (keys, values, place + 1)

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        y, _, _, _, state = self.step_all(x, state)
        return y, state


def _shape(
    x: TensorType,
    kv: TensorType | None,
    heads: int,
    kv_heads: int | None,
    causal: bool,
    pos: str,
    kv_dim: int | None,
    **_: object,
) -> tuple[TensorType, ...]:
    attention_shape(x, heads, pos)
    if kv_heads is not None and heads % kv_heads:
        fits = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise Mismatch(
            f"kv_heads={kv_heads} does not divide heads={heads}",
            param="kv_heads",
            hint=f"kv_heads may be {fits} here",
        )
    if pos == "xpos" and not causal:
        raise Mismatch("xpos grows with keys that come later", param="pos", hint="add causal")
    wide = x.dim // heads * (2 if pos == "lrpe" else 1)
    q, k = x.with_dim(heads * wide), (kv or x).with_dim((kv_heads or heads) * wide)
    outs = (x, q, k, x.with_dim(heads))
    if kv is None:
        if kv_dim is not None and kv_dim != x.dim:
            raise Mismatch(f"kv_dim={kv_dim} without kv", param="kv_dim", hint="leave kv_dim out")
        return outs
    need(kv, "seq")
    if causal:
        raise Mismatch("another sequence has no causal order", param="causal")
    if pos != "none":
        raise Mismatch(f"pos={pos} compares places of one sequence, not of two", param="pos")
    if kv.dim != (kv_dim or x.dim):
        raise Mismatch(f"kv has width {kv.dim}", param="kv", hint=f"say kv_dim={kv.dim}")
    return outs


def _cost(
    x: TensorType,
    kv: TensorType | None,
    heads: int,
    kv_heads: int | None,
    causal: bool,
    pos: str,
    bias: bool,
    qk_norm: bool,
    sink: str,
    gate: str,
    **_: object,
) -> Cost:
    source, d, t = x if kv is None else kv, x.dim, x.length
    s, width, groups = source.length, x.dim // heads, kv_heads or heads
    pair, double = 2 * groups * width, pos == "lrpe"
    gates = {"none": 0, "head": heads, "channel": d}[gate]
    tables = {"t5": 32 * heads, "learned": (129 if causal else 257) * heads}.get(pos, 0)
    params = 2 * d * d + source.dim * pair + bias * (2 * d + pair) + qk_norm * 2 * width
    params += gates * d + tables + (sink == "learned") * heads + double * groups * width
    flops = 4 * t * d * d + 2 * s * source.dim * pair + (4 + 2 * double) * t * s * d
    state = causal * (4 * t * (pair + double * groups * width) + 8)
    return Cost(params, flops + 2 * t * gates * d, 4 * (2 * t * d + s * pair), state)


def _hides(pos: str, cap: float | None, **_: object) -> str:
    if pos in ("alibi", "t5", "learned"):
        return f"pos={pos} adds to the logits, so that q and k do not make the weights"
    return "cap bends the logits, so that q and k do not make the weights" if cap else ""


OP = Op(
    name="softmax_attn",
    module=SoftmaxAttention,
    params={
        "heads": Int(1, 64),
        "kv_heads": Int(1, 64, default=None, none=True),
        "causal": Flag(),
        "pos": Word(("none", "rope", "alibi", "t5", "xpos", "lrpe", "learned"), default="none"),
        "bias": Flag(),
        "qk_norm": Flag(),
        "kv_dim": Int(1, 65536, log=True, default=None, none=True),
        "scale": Float(1e-4, 1e4, log=True, default=None, none=True),
        "cap": Float(1e-3, 1e4, log=True, default=None, none=True),
        "sink": Word(("none", "one", "learned"), default="none"),
        "gate": Word(("none", "head", "channel"), default="none"),
    },
    inputs=(Input("kv", "static", optional=True, masked=True),),
    shape=_shape,
    cost=_cost,
    causal=lambda x, *_, causal, **__: causal,
    returns=("y", "q", "k", "lse"),
    mask="use",
    state=True,
    uses=(*ENGINE, *SPARSE, *LOOKED_UP, t5_bucket, by_gap, xpos_scale, lrpe),
    hides=_hides,
    paper="arXiv:1706.03762",
)
