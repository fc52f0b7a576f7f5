"""Relative convolutional multi-head attention: convolved q, k, v meet in scores by lag.

    q, k, v <- b + sum_r w_r q_{t-r} (per channel, kernel wide),   then
    e_ts = [(q_t + u) . k_s + q_t . R_{t-s} + S_{t-s}] / sqrt(K)   (or the sinusoid form of rmha)

Causal with the flag `causal`; else a centred convolution and lags of both signs. Shapes: x [B, T,
D] -> [B, T, D], K = D / heads. The order (convolution, then the relative terms, which are not
convolved) is inferred: the paper names both parts. Mask: padding is zeroed before the convolution
and left out of the keys. State: convolved keys and values of all tokens so far, the last kernel - 1
raw projections, and the position. Cost: that of mdha and the lags of rmha. Paper: Sugiharto et al.
2023, "RCMHA", arXiv:2308.03429.
"""

from torch import Tensor

from grammar.domain import Flag, Int, Word
from ops.attention.engine import ENGINE, attention_cost, attention_shape
from ops.attention.lags import HeadConv, LagScores, conv_costs, lag_costs
from ops.attention.mdha import ConvolvedAttention
from ops.spec import Cost, Op, TensorType


class RelativeConvAttention(ConvolvedAttention):
    def __init__(
        self,
        dim: int,
        heads: int,
        causal: bool = False,
        kernel: int = 3,
        form: str = "table",
        reach: int = 4096,
    ) -> None:
        super().__init__(dim, heads, causal, "none", kernel)
        self.lags = LagScores(heads, dim // heads, reach, causal, form)

    def scores(self, q: Tensor, k: Tensor, gap: Tensor) -> Tensor:
        scores: Tensor = self.lags(q, k, gap) * self.scale
        return scores


def _shape(
    x: TensorType, heads: int, causal: bool, kernel: int, form: str, reach: int
) -> TensorType:
    attention_shape(x, heads)
    lag_costs(x, heads, causal, reach, form)
    return x


def _cost(x: TensorType, heads: int, causal: bool, kernel: int, form: str, reach: int) -> Cost:
    (params, flops), (more, again) = lag_costs(x, heads, causal, reach, form), conv_costs(x, kernel)
    cost = attention_cost(x, heads, causal, params=params + more, flops=flops + again)
    tail = causal * 12 * (kernel - 1) * x.dim
    return Cost(cost.params, cost.flops, cost.activation, cost.state + tail)


OP = Op(
    name="rcmha",
    module=RelativeConvAttention,
    params={
        "heads": Int(1, 64),
        "causal": Flag(),
        "kernel": Int(1, 16, default=3),
        "form": Word(("table", "sinusoid"), default="table"),
        "reach": Int(1, 2**20, log=True, default=4096),
    },
    shape=_shape,
    cost=_cost,
    causal=lambda x, causal, **_: causal,
    mask="use",
    state=True,
    uses=(*ENGINE, HeadConv, LagScores, ConvolvedAttention),
    paper="arXiv:2308.03429",
)
