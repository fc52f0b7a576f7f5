"""Document attention: packed texts, each token sees its own document only.

    y_t = W_o concat_h sum_s softmax_s(q_t . k_s / sqrt(K)) v_s,   doc(s) = doc(t) (and s <= t)
    doc(t) = how many separators stand before t

Causal with the flag `causal`. Shapes: x [B, T, D] -> [B, T, D], K = D / heads; `ids` [B, T], the
tokens, in which `separator` ends a document and belongs to it. Positions are relative (rope,
alibi), so that a document is read alike wherever it stands.
Mask: keys at padding are left out, separators there do not count. State: keys, values and document
numbers of all tokens so far, the current number, the position.
Cost: 4 D^2 parameters; 8 T D^2 + 4 T^2 D FLOPs.
Paper: Llama Team 2024, "The Llama 3 Herd of Models", arXiv:2407.21783, section 3.2 (attention mask
between documents of one sequence).
"""

import torch
from torch import Tensor

from grammar.domain import Int
from ops.attention.engine import attention_cost, attention_shape, head_params
from ops.attention.pattern import PATTERN_ENGINE, PatternAttention
from ops.kernels.dispatch import on_triton
from ops.kernels.sparse import sparse_documents
from ops.spec import Cost, Input, Mismatch, Op, TensorType, need


class DocumentAttention(PatternAttention):
    def __init__(
        self, dim: int, heads: int, causal: bool = False, pos: str = "none", separator: int = 0
    ) -> None:
        super().__init__(dim, heads, causal, pos)
        self.separator = separator

    def forward(  # type: ignore[override]  # takes the tokens' ids
        self, x: Tensor, ids: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        ends = (ids == self.separator).long()
        if mask is not None:
            ends = ends * mask
        doc = ends.cumsum(-1) - ends
        place = torch.arange(x.shape[1], device=x.device)
        q, k, v = self.project(x, x, place)
        if on_triton(q, k, v):
            pattern = sparse_documents(doc, "causal" if self.causal else "full")
            return self.merge(self.walk(q, k, v, pattern, mask))
        same = (doc[..., None] == doc[:, None])[:, None]
        return self.merge(self.blend(q, k, v, place, mask, same))

    def init_state(  # type: ignore[override]  # more than the engine's own state
        self, batch: int, length: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        keys, values, place = super().init_state(batch, length)
        return keys, values, place.new_zeros(batch, length), place.new_zeros(batch, 1), place

    def step(  # type: ignore[override]  # takes the token's id
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor, Tensor, Tensor], ids: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
        keys, values, docs, now, place = state
        docs = docs.index_copy(1, place, now)
        same = (docs == now)[:, None, None]
        y, (keys, values, place) = self.recall(x, (keys, values, place), same)
        return self.merge(y), (keys, values, docs, now + (ids == self.separator), place)


def _shape(
    x: TensorType, ids: TensorType, heads: int, causal: bool, pos: str, separator: int
) -> TensorType:
    need(ids, "tokens")
    if ids.length != attention_shape(x, heads, pos).length:
        raise Mismatch(f"ids {ids} are not those of {x}", param="ids")
    return x


def _cost(
    x: TensorType, ids: TensorType, heads: int, causal: bool, pos: str, separator: int
) -> Cost:
    plain = attention_cost(x, heads, causal)
    return Cost(
        plain.params, plain.flops, plain.activation, plain.state + causal * (8 * x.length + 8)
    )


OP = Op(
    name="document_attn",
    module=DocumentAttention,
    params={**head_params(), "separator": Int(0, 2**20)},
    inputs=(Input("ids", "stream"),),
    shape=_shape,
    cost=_cost,
    causal=lambda x, *_, causal, **__: causal,
    mask="use",
    state=True,
    uses=PATTERN_ENGINE,
    paper="arXiv:2407.21783",
    example="tokens[64]: embed(dim=64) >> document_attn(heads=4, separator=0, ids=@x)",
)
