"""RndEmbQK attention: queries and keys read frozen random vectors, one a place.

    A = softmax(r W_q (r W_k)^T / sqrt(K)),   y = W_o concat_h A_h (x W_v)

r: drawn once from the seed, N(0, 1), RMS-normed, kept with the weights but never trained; with the
input `qk` (the random stream led through the earlier blocks by `let`, as in the paper) its first
row instead. Without it, r is what the paper's first layer reads, at every depth. Causal with the
flag `causal`. Shapes: x [B, T, D] -> [B, T, D], K = D / heads, T at most the length at building.
Mask: keys at padding are left out. State: keys (one row) and values of all tokens so far, and the
position. Cost: 4 D^2 parameters; 4 T D^2 + 2 T^2 D FLOPs, and as much again once for the batch.
Paper: "Deconstructing Attention", arXiv:2510.11602, variant "RndEmbQK".
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.attention.engine import ENGINE, attention_cost, attention_shape, head_params
from ops.attention.streams import StreamAttention
from ops.spec import Cost, Input, Mismatch, Op, TensorType


class RandomEmbeddingAttention(StreamAttention):
    noise: Tensor

    def __init__(
        self, dim: int, heads: int, causal: bool, pos: str, length: int, seed: int
    ) -> None:
        super().__init__(dim, heads, causal, pos)
        drawn = torch.randn(1, length, dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("noise", F.rms_norm(drawn, (dim,)))

    def forward(  # type: ignore[override]  # a second stream
        self, x: Tensor, qk: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        return self.over(x, self.noise[:, : x.shape[1]] if qk is None else qk[:1], mask)

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        keys, values, place = super().init_state(batch, length)
        return keys[:1].clone(), values, place

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor], qk: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        now = self.noise.index_select(1, state[2]) if qk is None else qk[:1]
        return self.advance(x, now, state)


def _init(x: TensorType, **params: Any) -> dict[str, Any]:
    return {"dim": x.dim, "length": x.length, **params}


def _shape(
    x: TensorType, qk: TensorType | None, heads: int, causal: bool, pos: str, seed: int
) -> TensorType:
    shape = attention_shape(x, heads, pos).shape
    if qk is not None and (qk.kind, qk.shape) != ("seq", shape):
        raise Mismatch(f"qk is {qk}, not {x}", param="qk")
    return x


def _cost(
    x: TensorType, qk: TensorType | None, heads: int, causal: bool, pos: str, seed: int
) -> Cost:
    return attention_cost(x, heads, causal)


OP = Op(
    name="rndembqk_attn",
    module=RandomEmbeddingAttention,
    params=head_params("none", "rope"),
    inputs=(Input("qk", "stream", optional=True),),
    init=_init,
    shape=_shape,
    cost=_cost,
    causal=lambda x, *_, causal, **__: causal,
    needs=("seed",),
    fixed_length=True,
    mask="use",
    state=True,
    uses=(*ENGINE, StreamAttention),
    paper="arXiv:2510.11602",
)
