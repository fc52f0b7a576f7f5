"""Dilated sliding-window attention: a token sees every `dilation`-th token of a wide window.

    y_t = W_o concat_h sum_s softmax_s(q_t . k_s / sqrt(K)) v_s,   t - s = m d
    causal: 0 <= m < window;   else |m| <= window / 2

Causal with the flag `causal`. Shapes: x [B, T, D] -> [B, T, D], K = D / heads, d = `dilation`.
Mask: keys at padding are left out. State: a ring of the last (window - 1) d + 1 keys and values,
and the position. Cost: 4 D^2 parameters; 8 T D^2 + 4 T^2 D FLOPs (all scores are computed). Paper:
Beltagy et al. 2020, "Longformer", arXiv:2004.05150, section 3.1. Differs: one dilation for all
heads, no global tokens.
"""

import torch
from torch import Tensor

from grammar.domain import Int
from ops.attention.engine import attention_cost, attention_shape, head_params
from ops.attention.pattern import PATTERN_ENGINE, PatternAttention
from ops.kernels.sparse import SparsePattern
from ops.spec import Cost, Op, TensorType


class DilatedAttention(PatternAttention):
    def __init__(
        self,
        dim: int,
        heads: int,
        causal: bool = False,
        pos: str = "none",
        window: int = 64,
        dilation: int = 2,
    ) -> None:
        super().__init__(dim, heads, causal, pos)
        self.window, self.dilation = window, dilation

    def allowed(self, query: Tensor, key: Tensor) -> Tensor:
        gap = query - key
        if self.causal:
            near = (gap >= 0) & (gap < self.window * self.dilation)
        else:
            near = gap.abs() <= self.window // 2 * self.dilation
        return near & (gap % self.dilation == 0)

    def pattern(self, place: Tensor) -> SparsePattern:
        back = self.window - 1 if self.causal else self.window // 2
        return SparsePattern(back, 0 if self.causal else back, step=self.dilation)

    def cache_size(self, length: int) -> int:
        return min((self.window - 1) * self.dilation + 1, length)

    def slot(self, place: Tensor, size: int) -> Tensor:
        return place % size

    def places(self, place: Tensor, size: int) -> Tensor:
        return place - (place - torch.arange(size, device=place.device)) % size


def _cost(x: TensorType, heads: int, causal: bool, pos: str, window: int, dilation: int) -> Cost:
    return attention_cost(x, heads, causal, rows=min((window - 1) * dilation + 1, x.length))


OP = Op(
    name="dilated_attn",
    module=DilatedAttention,
    params={
        **head_params(),
        "window": Int(1, 65536, log=True, default=64),
        "dilation": Int(1, 4096, log=True, default=2),
    },
    shape=lambda x, heads, pos, **_: attention_shape(x, heads, pos),
    cost=_cost,
    causal=lambda x, causal, **_: causal,
    mask="use",
    state=True,
    uses=PATTERN_ENGINE,
    paper="arXiv:2004.05150",
)
