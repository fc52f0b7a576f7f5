"""Convolution over tokens, channels last.

    y_t = b + sum_{r < kernel} W_r x_{stride t + r - left},   zeros outside

Padding: `left = (kernel - 1) // 2` and `kernel // 2` on the right, so that T' = ceil(T / stride);
`causal` puts all `kernel - 1` zeros on the left: y_t then sees x_t and what came before it.
`groups` cuts the channels into groups that do not mix; `depthwise` is one group per channel.
Shapes: seq [B, T, D] -> [B, T', dim]. Mask: padded tokens count as zeros (stride 1 only).
State (causal, stride 1): the last `kernel - 1` inputs, [B, kernel - 1, D].
Cost: dim D kernel / groups + dim parameters; 2 T' dim D kernel / groups FLOPs.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Int
from ops.conv.common import need_groups
from ops.spec import Cost, Mismatch, Op, TensorType, need, seq


class Conv1d(nn.Module):
    def __init__(
        self,
        dim: int,
        out: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        causal: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        conv = nn.Conv1d(dim, out, kernel, groups=groups, bias=bias)
        self.weight, self.bias = conv.weight, conv.bias
        self.dim, self.stride, self.groups = dim, stride, groups
        self.padding = (kernel - 1, 0) if causal else ((kernel - 1) // 2, kernel // 2)

    def convolve(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.weight, self.bias, self.stride, groups=self.groups).mT

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            x = x * mask[..., None]
        return self.convolve(F.pad(x.mT, self.padding))

    def init_state(self, batch: int, length: int) -> Tensor:
        return self.weight.new_zeros(batch, self.weight.shape[2] - 1, self.dim)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        seen = torch.cat([state, x], 1)
        return self.convolve(seen.mT), seen[:, 1:]


def _shape(
    x: TensorType,
    dim: int,
    kernel: int,
    stride: int,
    groups: int,
    causal: bool,
    depthwise: bool,
    bias: bool,
) -> TensorType:
    need(x, "seq")
    need_groups(x.dim, dim, groups, depthwise)
    if x.may_pad and stride > 1:
        raise Mismatch(
            f"stride={stride} leaves no mask for padded tokens",
            param="stride",
            hint="only stride=1 on padded input",
        )
    length = -(-x.length // stride)
    return seq(length, dim, may_pad=x.may_pad, grid=x.grid if stride == 1 else None)


def _init(x: TensorType, **params: Any) -> dict[str, Any]:
    groups = x.dim if params["depthwise"] else params["groups"]
    rest = {name: params[name] for name in ("kernel", "stride", "causal", "bias")}
    return {"dim": x.dim, "out": params["dim"], "groups": groups, **rest}


def _causal(x: TensorType, kernel: int, stride: int, causal: bool, **_: Any) -> bool:
    return stride == 1 and (causal or kernel == 1)


def _cost(x: TensorType, dim: int, kernel: int, stride: int, **params: Any) -> Cost:
    groups = x.dim if params["depthwise"] else params["groups"]
    weights = dim * (x.dim // groups) * kernel
    return Cost(
        weights + params["bias"] * dim,
        2 * -(-x.length // stride) * weights,
        state=4 * (kernel - 1) * x.dim * _causal(x, kernel, stride, params["causal"]),
    )


OP = Op(
    name="conv1d",
    module=Conv1d,
    params={
        "dim": Int(1, 65536, log=True),
        "kernel": Int(1, 1024, log=True, default=3),
        "stride": Int(1, 1024, log=True, default=1),
        "groups": Int(1, 65536, log=True, default=1),
        "causal": Flag(),
        "depthwise": Flag(),
        "bias": Flag(default=True),
    },
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=_causal,
    mask="use",
    state=True,
)
