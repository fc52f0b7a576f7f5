"""Relative multi-head attention (Transformer-XL): scores depend on the lag through learned terms.

    e_ts = [(q_t + u) . k_s + q_t . R_{t-s} + S_{t-s}] / sqrt(K)                      form=table
    e_ts = [(q_t + u) . k_s + (q_t + w) . (W_R r_{t-s})] / sqrt(K)                    form=sinusoid

Causal with the flag `causal`; else the lags of both signs have rows of their own. Shapes: x [B, T,
D] -> [B, T, D], K = D / heads; `reach` is how many lags the table has (a longer input is refused).
R, S, u, w start at 0: plain attention, without positions until they are learned. No memory of
earlier segments. Mask: keys at padding are left out. State: keys and values of all tokens so far,
and the position (a lag's bias does not age, so that cached keys stay valid). Cost: 4 D^2 + D +
reach (D + heads) parameters (2 reach - 1 rows if not causal; sinusoid: 5 D^2 + 2 D); 8 T D^2 + 4
T^2 D + 2 T L D FLOPs, L = T or 2 T - 1 (sinusoid: + 2 L D^2, once for the batch). Paper: Dai et al.
2019, arXiv:1901.02860, section 3.3.
"""

from torch import Tensor

from grammar.domain import Flag, Int, Word
from ops.attention.engine import ENGINE, ScoreAttention, attention_cost, attention_shape
from ops.attention.lags import LagScores, lag_costs
from ops.spec import Cost, Op, TensorType


class RelativeAttention(ScoreAttention):
    def __init__(
        self, dim: int, heads: int, causal: bool = False, form: str = "table", reach: int = 4096
    ) -> None:
        super().__init__(dim, heads, causal)
        self.lags = LagScores(heads, dim // heads, reach, causal, form)

    def scores(self, q: Tensor, k: Tensor, gap: Tensor) -> Tensor:
        scores: Tensor = self.lags(q, k, gap) * self.scale
        return scores


def _shape(x: TensorType, heads: int, causal: bool, form: str, reach: int) -> TensorType:
    attention_shape(x, heads)
    lag_costs(x, heads, causal, reach, form)
    return x


def _cost(x: TensorType, heads: int, causal: bool, form: str, reach: int) -> Cost:
    params, flops = lag_costs(x, heads, causal, reach, form)
    return attention_cost(x, heads, causal, params=params, flops=flops)


OP = Op(
    name="rmha",
    module=RelativeAttention,
    params={
        "heads": Int(1, 64),
        "causal": Flag(),
        "form": Word(("table", "sinusoid"), default="table"),
        "reach": Int(1, 2**20, log=True, default=4096),
    },
    shape=_shape,
    cost=_cost,
    causal=lambda x, causal, **_: causal,
    mask="use",
    state=True,
    uses=(*ENGINE, LagScores),
    paper="arXiv:1901.02860",
)
