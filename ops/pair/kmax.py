"""k-max: the k strongest matches of each query token, strongest first.

    y_i = the k largest of M_i1 .. M_iR, sorted descending

Shapes: image [B, 1, L, R] -> seq [B, L, k]; [B, 2, L, R] when `match` had padding: pairs that
channel 2 does not call real never win, and a place without a real pair is 0. Not causal. No
parameters, no matmul.
Paper: Hui et al. 2017, "PACRR", arXiv:1704.03940, section 3.
"""

import torch
from torch import Tensor, nn

from grammar.domain import Int
from ops.pair.kernel_pool import need_pairs
from ops.spec import Mismatch, Op, TensorType, no_cost, seq


class KMax(nn.Module):
    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        table = x[:, 0]
        if x.shape[1] == 1:
            return table.topk(self.k, -1).values
        low = torch.finfo(x.dtype).min
        best = table.masked_fill(x[:, 1] <= 0, low).topk(self.k, -1).values
        return torch.where(best > low, best, 0.0)


def _shape(x: TensorType, k: int) -> TensorType:
    need_pairs(x)
    _, rows, columns = x.shape
    if k > columns:
        fact = f"k={k} of {columns} document tokens"
        raise Mismatch(fact, param="k", hint=f"k may be at most {columns} here")
    return seq(rows, k)


OP = Op(
    name="kmax",
    module=KMax,
    params={"k": Int(1, 1024, log=True, default=3)},
    shape=_shape,
    init=lambda x, k: {"k": k},
    cost=no_cost,
    causal=False,
    paper="arXiv:1704.03940",
)
