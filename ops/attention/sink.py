"""Window and sink attention: a token sees the first `sink` tokens and the last `window` ones.

    y_t = W_o concat_h sum_s softmax_s(q_t . k_s / sqrt(K)) v_s,   s <= t and (s < z or t - s < w)

Causal. Shapes: x [B, T, D] -> [B, T, D], K = D / heads. Rotary with `pos=rope`; with `reindex`
places count inside the cache, as when StreamingLLM decodes: the query stands at min(t, z + w - 1),
so that a sink stays at most z + w - 1 away (the window's distances are the true ones). Mask: keys
at padding are left out (the sinks are the first places, padded or not). State: z + w keys and
values at most (sinks, then a ring), and the position. Cost: 4 D^2 parameters; 8 T D^2 + 4 T^2 D
FLOPs (all scores are computed; + 2 T z D for reindex; on a GPU the engine computes those that are
seen, unless reindexed). Paper: Xiao et al. 2023, "Efficient
Streaming Language Models with Attention Sinks", arXiv:2309.17453, section 3.2. The trained sink
without a token is `softmax_attn(sink=...)`.
"""

import torch
from torch import Tensor

from grammar.domain import Flag, Int, Word
from ops.attention.engine import attention_cost, attention_shape
from ops.attention.pattern import PATTERN_ENGINE, PatternAttention
from ops.kernels.positions import rotary
from ops.kernels.sparse import SparsePattern
from ops.spec import Cost, Mismatch, Op, TensorType


class SinkAttention(PatternAttention):
    def __init__(
        self,
        dim: int,
        heads: int,
        window: int,
        sink: int = 4,
        pos: str = "none",
        reindex: bool = False,
    ) -> None:
        super().__init__(dim, heads, True, pos)
        self.window, self.sink, self.reindex = window, sink, reindex

    def allowed(self, query: Tensor, key: Tensor) -> Tensor:
        gap = query - key
        return (gap >= 0) & ((key < self.sink) | (gap < self.window))

    def pattern(self, place: Tensor) -> SparsePattern | None:
        if self.reindex and self.sink > 0:
            return None  # the sinks' scores turn with the query's place
        return SparsePattern(back=self.window - 1, ahead=0, head=self.sink)

    def scores(self, q: Tensor, k: Tensor, gap: Tensor) -> Tensor:
        scores = super().scores(q, k, gap)
        if not self.reindex or self.sink == 0:
            return scores
        place = gap[:, 0]  # the first row of any cache is place 0
        back = (place - (self.sink + self.window - 1)).clamp_min(0)
        near = super().scores(rotary(q, -back), k[:, :, : self.sink], gap)
        return torch.cat([near, scores[..., self.sink :]], dim=-1)

    def cache_size(self, length: int) -> int:
        return min(self.sink + self.window, length)

    def slot(self, place: Tensor, size: int) -> Tensor:
        ring = max(1, size - self.sink)
        return torch.where(place < self.sink, place, self.sink + (place - self.sink) % ring)

    def places(self, place: Tensor, size: int) -> Tensor:
        row = torch.arange(size, device=place.device)
        last = place - (place - row) % max(1, size - self.sink)
        return torch.where(row < self.sink, row, torch.where(last < self.sink, -1, last))


def _shape(
    x: TensorType, heads: int, window: int, sink: int, pos: str, reindex: bool
) -> TensorType:
    if reindex and pos != "rope":
        raise Mismatch("reindex without positions changes nothing", param="reindex")
    return attention_shape(x, heads, pos)


def _cost(x: TensorType, heads: int, window: int, sink: int, pos: str, reindex: bool) -> Cost:
    further = 2 * x.length * min(sink, x.length) * x.dim * reindex
    return attention_cost(x, heads, True, flops=further, rows=min(sink + window, x.length))


OP = Op(
    name="sink_attn",
    module=SinkAttention,
    params={
        "heads": Int(1, 64),
        "window": Int(1, 65536, log=True),
        "sink": Int(0, 4096, default=4),
        "pos": Word(("none", "rope"), default="none"),
        "reindex": Flag(),
    },
    shape=_shape,
    cost=_cost,
    causal=True,
    mask="use",
    state=True,
    uses=PATTERN_ENGINE,
    paper="arXiv:2309.17453",
)
