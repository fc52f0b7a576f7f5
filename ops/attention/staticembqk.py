"""StaticEmbQK attention: queries and keys of every layer read the token embeddings.

    A = softmax(e W_q (e W_k)^T / sqrt(K)),   y = W_o concat_h A_h (x W_v),   e = the input `qk`

Causal with the flag `causal`. Shapes: x [B, T, D] -> [B, T, D], K = D / heads; qk [B, T, D], as a
rule `@e` of `embed(...) >> rms_norm as e`. Mask: keys at padding are left out. State: keys and
values of all tokens so far, and the position. Cost: 4 D^2 parameters; 8 T D^2 + 4 T^2 D FLOPs.
Paper: "Deconstructing Attention", arXiv:2510.11602, variant "StaticEmbQK".
"""

from torch import Tensor

from ops.attention.engine import ENGINE, attention_cost, attention_shape, head_params
from ops.attention.streams import StreamAttention
from ops.spec import Cost, Input, Mismatch, Op, TensorType


class StaticEmbeddingAttention(StreamAttention):
    def forward(  # type: ignore[override]  # a second stream
        self, x: Tensor, qk: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return self.over(x, qk, mask)

    def step(  # type: ignore[override]  # a second stream
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor], qk: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        return self.advance(x, qk, state)


def _shape(x: TensorType, qk: TensorType, heads: int, causal: bool, pos: str) -> TensorType:
    if (qk.kind, qk.shape) != ("seq", attention_shape(x, heads, pos).shape):
        raise Mismatch(f"qk is {qk}, not {x}", param="qk")
    return x


def _cost(x: TensorType, qk: TensorType, heads: int, causal: bool, pos: str) -> Cost:
    return attention_cost(x, heads, causal)


OP = Op(
    name="staticembqk_attn",
    module=StaticEmbeddingAttention,
    params=head_params("none", "rope"),
    inputs=(Input("qk", "stream"),),
    shape=_shape,
    cost=_cost,
    causal=lambda x, *_, causal, **__: causal,
    mask="use",
    state=True,
    uses=(*ENGINE, StreamAttention),
    paper="arXiv:2510.11602",
)
