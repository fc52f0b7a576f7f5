"""Match histogram: how many matches of each strength a query token has, counted in bins.

    y_ib = #{j: M_ij in bin b},  b = 0..bins-2 equal parts of [-1, 1), the last bin M >= 1 - 1e-6
    count: y;   norm: y / sum_b y;   log: log(1 + y)

Values beyond [-1, 1] fall into the end bins. A count has no gradient: what makes M is not trained
through here.
Shapes: image [B, 1, L, R] -> seq [B, L, bins]; [B, 2, L, R] when `match` had padding: pairs that
channel 2 does not call real are not counted. Not causal. No parameters, no matmul.
Paper: Guo et al. 2016, "A Deep Relevance Matching Model", arXiv:1711.08611, section 3.1.
"""

import torch
from torch import Tensor, nn

from grammar.domain import Int, Word
from ops.pair.kernel_pool import need_pairs
from ops.spec import Op, TensorType, no_cost, seq


class MatchHistogram(nn.Module):
    def __init__(self, bins: int, mode: str) -> None:
        super().__init__()
        self.bins, self.mode = bins, mode

    def forward(self, x: Tensor) -> Tensor:
        table = x[:, 0].detach()
        real = torch.ones_like(table) if x.shape[1] == 1 else (x[:, 1] > 0).to(x.dtype)
        index = ((table + 1) / 2 * (self.bins - 1)).floor().long().clamp(0, self.bins - 2)
        index = torch.where(table >= 1 - 1e-6, self.bins - 1, index)
        y = table.new_zeros(*table.shape[:2], self.bins).scatter_add(-1, index, real)
        if self.mode == "norm":
            return y / y.sum(-1, keepdim=True).clamp(min=1)
        return y.log1p() if self.mode == "log" else y


def _shape(x: TensorType, bins: int, mode: str) -> TensorType:
    need_pairs(x)
    return seq(x.shape[1], bins)


OP = Op(
    name="histogram",
    module=MatchHistogram,
    params={
        "bins": Int(2, 1024, log=True, default=30),
        "mode": Word(("log", "norm", "count"), default="log"),
    },
    shape=_shape,
    init=lambda x, **params: params,
    cost=no_cost,
    causal=False,
    paper="arXiv:1711.08611",
)
