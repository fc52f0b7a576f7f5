"""Key-masking attention: a further input says which tokens to hide, softly or hard.

    g_s = 1 - hide_s in [0, 1];    z_ts = q_t . k_s / sqrt(K) + positions
    mode scale: k_s -> g_s k_s (a hidden key has logit 0: damped, not excluded)
         bias:  z_ts + log(g_s + 1e-9)        drop: keys with g_s < 1/2 left out
         query: q_t -> g_t q_t                value: v_s -> g_s v_s

Causal with the flag `causal`. Shapes: x [B, T, D] -> [B, T, D], K = D / heads; `hide` [B, T, 1] is
clamped to [0, 1]; in a causal model hide_s must come from tokens 0..s. With `drop`, a query whose
keys are all hidden gives 0, or sees itself with the flag `keep_self`.
Mask: keys at padding are left out. State: keys, values and g of all tokens so far, the position.
Cost: 4 D^2 parameters; 8 T D^2 + 4 T^2 D FLOPs.
Paper: Jia et al. 2024, "DesignEdit", arXiv:2403.14487, section 3.2 (mode scale is its key-masking
self-attention; query and value are its ablations; bias and drop are ours).
"""

import torch
from torch import Tensor

from grammar.domain import Flag, Word
from ops.attention.engine import (
    ENGINE,
    ScoreAttention,
    attention_cost,
    attention_shape,
    head_params,
    masked_softmax,
)
from ops.spec import Cost, Input, Mismatch, Op, TensorType


class KeyMaskAttention(ScoreAttention):
    def __init__(
        self,
        dim: int,
        heads: int,
        causal: bool = False,
        pos: str = "none",
        mode: str = "scale",
        keep_self: bool = False,
    ) -> None:
        super().__init__(dim, heads, causal, pos)
        self.mode, self.keep_self = mode, keep_self

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, gap: Tensor, seen: Tensor
    ) -> Tensor:
        """g [B, S] of the keys; the queries' own g is already in q."""
        column = g[:, None, None, :]
        if self.mode == "scale":
            k = k * g[:, None, :, None]
        scores = self.scores(q, k, gap)
        if self.mode == "bias":
            scores = scores + torch.log(column + 1e-9)
        if self.mode == "drop":
            shown = column >= 0.5
            seen = seen & (shown | (gap == 0) if self.keep_self else shown)
        if self.mode == "value":
            v = v * g[:, None, :, None]
        return self.merge(masked_softmax(scores, seen) @ v)

    def forward(  # type: ignore[override]  # takes what to hide
        self, x: Tensor, hide: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        g = 1 - hide[..., 0].clamp(0, 1)
        place = torch.arange(x.shape[1], device=x.device)
        q, k, v = self.project(x, x, place)
        if self.mode == "query":
            q = q * g[:, None, :, None]
        gap = place[:, None] - place
        seen = gap >= 0 if self.causal else torch.ones_like(gap, dtype=torch.bool)
        if mask is not None:
            seen = seen & mask[:, None, None, :]
        return self.attend(q, k, v, g, gap, seen)

    def init_state(  # type: ignore[override]  # more than the engine's own state
        self, batch: int, length: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        keys, values, place = super().init_state(batch, length)
        return keys, values, keys.new_zeros(batch, length), place

    def step(  # type: ignore[override]  # takes the token's hide
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor, Tensor], hide: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
        keys, values, gates, place = state
        now = 1 - hide[..., 0].clamp(0, 1)
        q, k, v = self.project(x, x, place)
        if self.mode == "query":
            q = q * now[:, None, :, None]
        keys, values = keys.index_copy(2, place, k), values.index_copy(2, place, v)
        gates = gates.index_copy(1, place, now)
        gap = place[:, None] - torch.arange(keys.shape[2], device=x.device)
        y = self.attend(q, keys, values, gates, gap, gap >= 0)
        return y, (keys, values, gates, place + 1)


def _shape(
    x: TensorType, hide: TensorType, heads: int, pos: str, mode: str, keep_self: bool, **_: object
) -> TensorType:
    if (hide.kind, hide.shape) != ("seq", (attention_shape(x, heads, pos).length, 1)):
        raise Mismatch(f"hide is {hide}, not seq[{x.length},1]", param="hide")
    if keep_self and mode != "drop":
        raise Mismatch("keep_self serves mode=drop only", param="keep_self")
    return x


def _cost(x: TensorType, hide: TensorType, heads: int, causal: bool, **_: object) -> Cost:
    plain = attention_cost(x, heads, causal)
    return Cost(plain.params, plain.flops, plain.activation, plain.state + causal * 4 * x.length)


OP = Op(
    name="key_mask_attn",
    module=KeyMaskAttention,
    params={
        **head_params(),
        "mode": Word(("scale", "drop", "bias", "query", "value"), default="scale"),
        "keep_self": Flag(),
    },
    inputs=(Input("hide", "stream"),),
    shape=_shape,
    cost=_cost,
    causal=lambda x, *_, causal, **__: causal,
    mask="use",
    state=True,
    uses=ENGINE,
    paper="arXiv:2403.14487",
    example="seq[64,64]: id as e >> linear(dim=1) as h >> @e >> key_mask_attn(heads=4, hide=@h)",
)
