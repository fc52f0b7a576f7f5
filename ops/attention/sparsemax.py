"""Sparsemax attention: the scores are projected onto the simplex, so that few keys count.

    A = argmin_p |p - z|^2 over the simplex,  z = q k^T / sqrt(K) + positions;   A_j = [z_j - tau]_+

Causal with the flag `causal`. Shapes: x [B, T, D] -> [B, T, D], K = D / heads; tau by sorting.
Mask: keys at padding are left out. State: keys and values of all tokens so far, and the position.
Cost: 4 D^2 parameters; 8 T D^2 + 4 T^2 D FLOPs (and a sort of each row).
Paper: Martins & Astudillo 2016, "From softmax to sparsemax", arXiv:1602.02068, algorithm 1.
"""

from torch import Tensor

from ops.attention.engine import (
    ENGINE,
    ScoreAttention,
    attention_cost,
    attention_shape,
    head_params,
)
from ops.attention.sparse_weights import sparsemax_weights
from ops.spec import Op


class SparsemaxAttention(ScoreAttention):
    def weigh(self, scores: Tensor, seen: Tensor | None) -> Tensor:
        return sparsemax_weights(scores, seen)


OP = Op(
    name="sparsemax_attn",
    module=SparsemaxAttention,
    params=head_params(),
    shape=lambda x, heads, causal, pos: attention_shape(x, heads, pos),
    cost=lambda x, heads, causal, pos: attention_cost(x, heads, causal),
    causal=lambda x, causal, **_: causal,
    mask="use",
    state=True,
    uses=(*ENGINE, sparsemax_weights),
    paper="arXiv:1602.02068",
)
