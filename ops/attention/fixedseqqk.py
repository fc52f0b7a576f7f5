"""FixedSeqQK attention: queries and keys read one fixed text, the same for every input.

    A = softmax(f W_q (f W_k)^T / sqrt(K)),   y = W_o concat_h A_h (x W_v)
    f = the first row of `qk`

Causal with the flag `causal`. Shapes: x [B, T, D] -> [B, T, D], K = D / heads; qk [B, T, D] is the
fixed text's hidden state at this layer, equal in every row: `@tokens >> fixed_tokens >> emb`, led
through the same blocks by `let`. Mask: keys at padding are left out. State: keys (one row) and
values of all tokens so far, and the position. Cost: 4 D^2 parameters; 4 T D^2 + 2 T^2 D FLOPs, and
as much again once for the batch. Paper: "Deconstructing Attention", arXiv:2510.11602, variant
"FixedSeqQK".
"""

from torch import Tensor

from ops.attention.engine import ENGINE, attention_cost, attention_shape, head_params
from ops.attention.streams import StreamAttention
from ops.spec import Cost, Input, Mismatch, Op, TensorType


class FixedSequenceAttention(StreamAttention):
    def forward(  # type: ignore[override]  # a second stream
        self, x: Tensor, qk: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        return self.over(x, qk[:1], mask)

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        keys, values, place = super().init_state(batch, length)
        return keys[:1].clone(), values, place

    def step(  # type: ignore[override]  # a second stream
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor], qk: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        return self.advance(x, qk[:1], state)


def _shape(x: TensorType, qk: TensorType, heads: int, causal: bool, pos: str) -> TensorType:
    if (qk.kind, qk.shape) != ("seq", attention_shape(x, heads, pos).shape):
        raise Mismatch(f"qk is {qk}, not {x}", param="qk")
    return x


def _cost(x: TensorType, qk: TensorType, heads: int, causal: bool, pos: str) -> Cost:
    return attention_cost(x, heads, causal)


OP = Op(
    name="fixedseqqk_attn",
    module=FixedSequenceAttention,
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
