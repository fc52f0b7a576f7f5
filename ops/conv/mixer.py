"""Causal convolution mixer: a short filter a channel, silu, then a linear map of the channels.

    a_t = silu(sum_{r=0..k-1} w_{k-1-r} * x_{t-r}),   y_t = W a_t,   x = 0 left of the start

Causal. Shapes: x [B, T, D] -> [B, T, D]; no biases. Mask: right padding is harmless, none is taken.
State: the last k - 1 inputs, [B, k - 1, D]. Cost: k D + D^2 parameters; 2 k T D + 2 T D^2 FLOPs.
Source: the short convolution of Mamba (Gu & Dao 2023, arXiv:2312.00752) as a mixer of its own.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Int
from ops.kernels.mixing import SHORT, short_conv
from ops.spec import Cost, Op, TensorType, need


class ConvMixer(nn.Module):
    def __init__(self, dim: int, kernel: int = 4) -> None:
        super().__init__()
        self.kernel = kernel
        self.conv = nn.Conv1d(dim, dim, kernel, groups=dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(short_conv(x, self.conv.weight, None, True))
        return y

    def init_state(self, batch: int, length: int) -> Tensor:
        return self.out.weight.new_zeros(batch, self.kernel - 1, self.out.in_features)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        recent = torch.cat([state, x], dim=1)
        y = (recent * self.conv.weight[:, 0].T).sum(1, keepdim=True)
        return self.out(F.silu(y)), recent[:, 1:]


def _shape(x: TensorType, kernel: int) -> TensorType:
    need(x, "seq")
    return x


def _cost(x: TensorType, kernel: int) -> Cost:
    t, d = x.length, x.dim
    flops = 2 * kernel * t * d + 2 * t * d * d
    return Cost(kernel * d + d * d, flops, 8 * t * d, 4 * (kernel - 1) * d)


OP = Op(
    name="conv_mixer",
    module=ConvMixer,
    params={"kernel": Int(1, 64, default=4)},
    shape=_shape,
    cost=_cost,
    causal=True,
    state=True,
    uses=SHORT,
    paper="arXiv:2312.00752",
)
