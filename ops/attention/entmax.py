"""Entmax attention: attention weights that can be exactly zero, between softmax and sparsemax.

    A = entmax_alpha(q k^T / sqrt(K) + positions),   p_j = [(alpha - 1) z_j - tau]_+^(1/(alpha-1))

Causal with the flag `causal`. Shapes: x [B, T, D] -> [B, T, D], K = D / heads. `alpha` in (1, 2]:
1.5 is entmax-1.5, 2 sparsemax; `alpha=none` learns alpha_h = 1 + sigmoid(a_h), from 1.5.
Mask: keys at padding are left out. State: keys and values of all tokens so far, and the position.
Cost: 4 D^2 parameters (+ heads if alpha is learned); 8 T D^2 + 4 T^2 D FLOPs.
Papers: Peters et al. 2019, arXiv:1905.05702; Correia et al. 2019, arXiv:1909.00015, section 3.
"""

import torch
from torch import Tensor, nn

from grammar.domain import Float
from ops.attention.engine import (
    ENGINE,
    ScoreAttention,
    attention_cost,
    attention_shape,
    head_params,
)
from ops.attention.sparse_weights import entmax_weights
from ops.spec import Op


class EntmaxAttention(ScoreAttention):
    def __init__(
        self,
        dim: int,
        heads: int,
        causal: bool = False,
        pos: str = "none",
        alpha: float | None = 1.5,
    ) -> None:
        super().__init__(dim, heads, causal, pos)
        self.alpha = alpha
        self.shape = nn.Parameter(torch.zeros(heads)) if alpha is None else None

    def weigh(self, scores: Tensor, seen: Tensor | None) -> Tensor:
        if self.shape is not None:
            return entmax_weights(scores, seen, 1 + self.shape.sigmoid()[:, None, None])
        assert self.alpha is not None
        return entmax_weights(scores, seen, scores.new_full((), self.alpha))


OP = Op(
    name="entmax_attn",
    module=EntmaxAttention,
    params={
        **head_params(),
        "alpha": Float(1.01, 2.0, default=1.5, none=True),
    },
    shape=lambda x, heads, causal, pos, alpha: attention_shape(x, heads, pos),
    cost=lambda x, heads, causal, pos, alpha: attention_cost(
        x, heads, causal, params=heads * (alpha is None)
    ),
    causal=lambda x, causal, **_: causal,
    mask="use",
    state=True,
    uses=(*ENGINE, entmax_weights),
    paper="arXiv:1905.05702",
)
