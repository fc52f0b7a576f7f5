"""Attention whose queries and keys come from one stream and whose values come from another.

    A = softmax(e W_q (e W_k)^T / sqrt(K)),   y = W_o concat_h A_h (x W_v)

The parameters are those of plain attention. `e` may have one row for the whole batch: then A is
computed once. Paper: "Deconstructing Attention", arXiv:2510.11602, variants 3-5.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.attention.engine import ScoreAttention, split_heads
from ops.kernels.positions import rotary


class StreamAttention(ScoreAttention):
    def meet(self, x: Tensor, e: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k_rows, v_rows = self.kv.weight.chunk(2)
        q, k = split_heads(self.q(e), self.heads), split_heads(F.linear(e, k_rows), self.heads)
        if self.pos == "rope":
            q, k = rotary(q, place), rotary(k, place)
        return q, k, split_heads(F.linear(x, v_rows), self.heads)

    def over(self, x: Tensor, e: Tensor, mask: Tensor | None) -> Tensor:
        place = torch.arange(x.shape[1], device=x.device)
        q, k, v = self.meet(x, e, place)
        query, key = place[:, None], place[None]
        weights = self.weigh(self.scores(q, k, query - key), self.seen(query, key, mask))
        return self.merge(weights @ v)

    def advance(
        self, x: Tensor, e: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        keys, values, place = state
        q, k, v = self.meet(x, e, place)
        keys, values = keys.index_copy(2, place, k), values.index_copy(2, place, v)
        gap = place[:, None] - torch.arange(keys.shape[2], device=x.device)
        weights = self.weigh(self.scores(q, keys, gap), gap >= 0)
        return self.merge(weights @ values), (keys, values, place + 1)
