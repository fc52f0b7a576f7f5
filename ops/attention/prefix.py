"""Prefix attention: the first `prefix` tokens are seen by all, the others by later ones only.

    y_t = W_o concat_h sum_s softmax_s(q_t . k_s / sqrt(K)) v_s,   s <= t or s < prefix

Causal only for prefix <= 1. Shapes: x [B, T, D] -> [B, T, D], K = D / heads. Mask: keys at padding
are left out. State (causal only): keys and values of all tokens so far, and the position. Cost: 4
D^2 parameters; 8 T D^2 + 4 T^2 D FLOPs. Paper: Raffel et al. 2020, arXiv:1910.10683, section 3.2.1,
figure 3 right ("causal with prefix").
"""

from torch import Tensor

from grammar.domain import Int, Word
from ops.attention.engine import attention_cost, attention_shape
from ops.attention.pattern import PATTERN_ENGINE, PatternAttention
from ops.kernels.sparse import SparsePattern
from ops.spec import Op


class PrefixAttention(PatternAttention):
    def __init__(self, dim: int, heads: int, prefix: int, pos: str = "none") -> None:
        super().__init__(dim, heads, True, pos)
        self.prefix = prefix

    def allowed(self, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) | (key < self.prefix)

    def pattern(self, place: Tensor) -> SparsePattern:
        return SparsePattern(ahead=0, least=self.prefix)


OP = Op(
    name="prefix_attn",
    module=PrefixAttention,
    params={
        "heads": Int(1, 64),
        "prefix": Int(0, 65536, log=True),
        "pos": Word(("none", "rope", "alibi"), default="none"),
    },
    shape=lambda x, heads, prefix, pos: attention_shape(x, heads, pos),
    cost=lambda x, heads, prefix, pos: attention_cost(x, heads, prefix <= 1),
    causal=lambda x, prefix, **_: prefix <= 1,
    mask="use",
    state=True,
    uses=PATTERN_ENGINE,
    paper="arXiv:1910.10683",
)
