"""Token mixing of the MLP-Mixer: one two-layer network over the token axis for all channels.

    y^T = W_2 gelu(W_1 x^T + b_1) + b_2,   W_1 [hidden, T], W_2 [T, hidden]

Not causal; the length is fixed when the module is built. Shapes: x [B, T, D] -> [B, T, D].
`hidden` is D / 2 unless given, as in the paper. Mask: none, every place has weights of its own.
Cost: 2 T hidden + hidden + T parameters; 4 T hidden D FLOPs.
Paper: Tolstikhin et al. 2021, arXiv:2105.01601, eq. 1, first line. Differs: no norm, no skip.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Int
from ops.spec import Cost, Op, TensorType, need


class TokenMixer(nn.Module):
    def __init__(self, length: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(length, hidden)
        self.down = nn.Linear(hidden, length)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.gelu(self.up(x.mT)))
        return y.mT


def _shape(x: TensorType, hidden: int | None) -> TensorType:
    need(x, "seq")
    return x


def _init(x: TensorType, hidden: int | None) -> dict[str, Any]:
    return {"length": x.length, "hidden": hidden or max(1, x.dim // 2)}


def _cost(x: TensorType, hidden: int | None) -> Cost:
    width, t = hidden or max(1, x.dim // 2), x.length
    return Cost(2 * t * width + width + t, 4 * t * width * x.dim, 8 * width * x.dim)


OP = Op(
    name="mixer",
    module=TokenMixer,
    params={"hidden": Int(1, 65536, log=True, default=None, none=True)},
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=False,
    mask="none",
    fixed_length=True,
    paper="arXiv:2105.01601",
)
