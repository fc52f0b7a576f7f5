"""Talking-heads attention: logits and weights are mixed across the heads.

    Z_g = sum_h P_hg q_h . k_h / sqrt(K),   A = softmax_s(Z),   W_g = sum_h Q_hg A_h,   y = W_o W v

Causal with the flag `causal`. Shapes: x [B, T, D] -> [B, T, D], K = D / heads; P, Q [heads, heads]
start as the identity (plain multi-head attention). Rotary positions on q and k with `pos=rope`.
Mask: keys at padding are left out. State: keys and values of all tokens so far, and the position.
Cost: 4 D^2 + 2 heads^2 parameters; 8 T D^2 + 4 T^2 D + 4 T^2 heads^2 FLOPs.
Paper: Shazeer et al. 2020, "Talking-Heads Attention", arXiv:2003.02436, section 4.
"""

import torch
from torch import Tensor, nn

from ops.attention.engine import (
    ENGINE,
    ScoreAttention,
    attention_cost,
    attention_shape,
    head_params,
    masked_softmax,
)
from ops.spec import Op


class TalkingHeads(ScoreAttention):
    def __init__(self, dim: int, heads: int, causal: bool = False, pos: str = "none") -> None:
        super().__init__(dim, heads, causal, pos)
        self.mix_logits = nn.Parameter(torch.eye(heads))
        self.mix_weights = nn.Parameter(torch.eye(heads))

    def scores(self, q: Tensor, k: Tensor, gap: Tensor) -> Tensor:
        scores = super().scores(q, k, gap)
        return (scores.movedim(1, -1) @ self.mix_logits).movedim(-1, 1)

    def weigh(self, scores: Tensor, seen: Tensor | None) -> Tensor:
        weights = masked_softmax(scores, seen)
        return (weights.movedim(1, -1) @ self.mix_weights).movedim(-1, 1)


OP = Op(
    name="talking_heads",
    module=TalkingHeads,
    params=head_params("none", "rope"),
    shape=lambda x, heads, causal, pos: attention_shape(x, heads, pos),
    cost=lambda x, heads, causal, pos: attention_cost(
        x, heads, causal, params=2 * heads**2, flops=4 * x.length**2 * heads**2
    ),
    causal=lambda x, causal, **_: causal,
    mask="use",
    state=True,
    uses=ENGINE,
    paper="arXiv:2003.02436",
)
