"""Multi-token attention: neighbouring queries and keys, and groups of heads, share their logits.

    Z'_ts = sum_{i < c_q, |j| <= c_k / 2} W_h[i, j] Z_{t-i, s+j}     (Z = 0 where s > t)
    A = softmax_s(Z' masked again),  A'_g = sum_h M_hg A_h in groups of c_h heads
    y = W_o RMS(A' v)

Causal with the flag `causal`: the first masking keeps the convolution from reading later keys.
Shapes: x [B, T, D] -> [B, T, D], K = D / heads; c_q = `queries`, c_k = `keys` (centred), c_h =
`group`. W and M start as the identity: plain attention. `norm`: RMS norm of each head's output with
a weight [D]. Mask: logits at padding are 0 before the convolution and left out after it. State: the
last c_q queries, keys and values of all tokens so far, and the position. Cost: 4 D^2 + heads (c_q
c_k + c_h) (+ D) parameters; 8 T D^2 + 4 T^2 D + 2 T^2 heads (c_q c_k + c_h). Paper: Golovneva et
al. 2025, arXiv:2504.00927, section 3 (convolution before, head mixing after the softmax). Differs:
neither depth scaling nor a gate in the norm.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Int
from ops.attention.engine import (
    ENGINE,
    ScoreAttention,
    attention_cost,
    attention_shape,
    head_params,
    masked_softmax,
)
from ops.spec import Cost, Mismatch, Op, TensorType


class MultiTokenAttention(ScoreAttention):
    def __init__(
        self,
        dim: int,
        heads: int,
        causal: bool = False,
        pos: str = "none",
        queries: int = 6,
        keys: int = 11,
        group: int = 2,
        norm: bool = True,
    ) -> None:
        super().__init__(dim, heads, causal, pos)
        kernel = torch.zeros(heads, 1, queries, keys)
        kernel[:, :, -1, keys // 2] = 1.0
        self.kernel = nn.Parameter(kernel)
        self.heads_mix = nn.Parameter(torch.eye(group).repeat(heads // group, 1, 1))
        self.norm = nn.Parameter(torch.ones(heads, 1, self.width)) if norm else None

    def convolve(self, scores: Tensor) -> Tensor:
        """[B, heads, c_q - 1 + T, S] -> [B, heads, T, S]."""
        side = self.kernel.shape[-1] // 2
        return F.conv2d(F.pad(scores, (side, side)), self.kernel, groups=self.heads)

    def weigh(self, scores: Tensor, seen: Tensor | None) -> Tensor:
        group = self.heads_mix.shape[-1]
        maps = torch.unflatten(masked_softmax(scores, seen), 1, (-1, group))
        mixed = maps.movedim(2, -1) @ self.heads_mix[:, None]
        return mixed.movedim(-1, 2).flatten(1, 2)

    def merge(self, y: Tensor) -> Tensor:
        if self.norm is not None:
            y = F.rms_norm(y, (self.width,), None, 1e-6) * self.norm
        return super().merge(y)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        place = torch.arange(x.shape[1], device=x.device)
        q, k, v = self.project(x, x, place)
        query, key = place[:, None], place[None]
        scores, seen = self.scores(q, k, query - key), self.seen(query, key, mask)
        if seen is not None:
            scores = scores * seen
        if mask is not None:
            scores = scores * mask[:, None, :, None]
        scores = self.convolve(F.pad(scores, (0, 0, self.kernel.shape[2] - 1, 0)))
        return self.merge(self.weigh(scores, seen) @ v)

    def init_state(  # type: ignore[override]  # more than the engine's own state
        self, batch: int, length: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        keys, values, place = super().init_state(batch, length)
        rows = keys.new_zeros(batch, self.heads, self.kernel.shape[2], self.width)
        return keys, values, rows, place

    def step(  # type: ignore[override]  # more than the engine's own state
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
        keys, values, rows, place = state
        q, k, v = self.project(x, x, place)
        keys, values = keys.index_copy(2, place, k), values.index_copy(2, place, v)
        rows = torch.cat([rows[:, :, 1:], q], dim=2)
        count = rows.shape[2]
        query = (place + torch.arange(1 - count, 1, device=x.device))[:, None]
        key = torch.arange(keys.shape[2], device=x.device)[None]
        scores = self.scores(rows, keys, query - key) * (query >= key)
        weights = self.weigh(self.convolve(scores), key <= place[:, None])
        return self.merge(weights @ values), (keys, values, rows, place + 1)


def _shape(x: TensorType, heads: int, pos: str, keys: int, group: int, **_: object) -> TensorType:
    attention_shape(x, heads, pos)
    if keys % 2 == 0:
        raise Mismatch(f"keys={keys} has no centre", param="keys", hint="take an odd number")
    if heads % group:
        raise Mismatch(f"group={group} does not divide heads={heads}", param="group")
    return x


def _cost(
    x: TensorType,
    heads: int,
    causal: bool,
    pos: str,
    queries: int,
    keys: int,
    group: int,
    norm: bool,
) -> Cost:
    t, d, shared = x.length, x.dim, heads * (queries * keys + group)
    cost = attention_cost(x, heads, causal, params=shared + norm * d, flops=2 * t * t * shared)
    rows = causal * 4 * queries * d
    return Cost(cost.params, cost.flops, cost.activation, cost.state + rows)


OP = Op(
    name="multi_token_attn",
    module=MultiTokenAttention,
    params={
        **head_params(),
        "queries": Int(1, 64, default=6),
        "keys": Int(1, 129, default=11),
        "group": Int(1, 64, default=2),
        "norm": Flag(default=True),
    },
    shape=_shape,
    cost=_cost,
    causal=lambda x, causal, **_: causal,
    mask="use",
    state=True,
    uses=ENGINE,
    paper="arXiv:2504.00927",
)
