"""Convolution over tokens, channels last.

    y_t = b + sum_{r < kernel} W_r x_{stride t + dilation r - left},   zeros outside

Padding, with R = dilation (kernel - 1): `left = R // 2`, so that T' = ceil(T / stride); `causal`
puts all R zeros on the left: y_t then sees x_t and what came before it.
`transposed`: y_u = b + sum W_r x_t over stride t + dilation r - left = u, T' = stride T, the matrix
of the convolution transposed; `causal` is left = 0.
`groups` cuts the channels into groups that do not mix; `depthwise` is one group per channel.
Shapes: seq [B, T, D] -> [B, T', dim]. Mask: padded tokens count as zeros (stride 1 only).
State (causal, stride 1): the last R inputs, [B, R, D].
Cost: dim D kernel / groups + dim parameters; 2 T' dim D kernel / groups FLOPs (transposed: T).
Sources: LeCun et al. 1989; van den Oord et al. 2016, arXiv:1609.03499, section 2.1 (causal,
dilated); Dumoulin & Visin 2016, arXiv:1603.07285, chapter 4 (transposed).
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
        dilation: int = 1,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        layer = nn.ConvTranspose1d if transposed else nn.Conv1d
        conv = layer(dim, out, kernel, groups=groups, bias=bias)
        self.weight, self.bias = conv.weight, conv.bias
        self.dim, self.stride, self.groups = dim, stride, groups
        self.dilation, self.transposed = dilation, transposed
        self.reach = dilation * (kernel - 1)
        self.left = self.reach // 2
        if causal:
            self.left = 0 if transposed else self.reach

    def spread(self, x: Tensor) -> Tensor:
        """The transposed form, [B, D, T] -> [B, dim, stride T]."""
        more = max(0, self.left + self.stride - self.reach - 1)
        y = F.conv_transpose1d(
            x,
            self.weight,
            self.bias,
            self.stride,
            output_padding=more,
            groups=self.groups,
            dilation=self.dilation,
        )
        return y[..., self.left : self.left + self.stride * x.shape[-1]]

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        dilated = {"dilation": self.dilation, "groups": self.groups}
        return F.conv1d(x, weight, self.bias, self.stride, **dilated).mT

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            x = x * mask[..., None]
        if self.transposed:
            return self.spread(x.mT).mT
        return self.convolve(F.pad(x.mT, (self.left, self.reach - self.left)), self.weight)

    def init_state(self, batch: int, length: int) -> Tensor:
        return self.weight.new_zeros(batch, self.reach, self.dim)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        seen, weight = torch.cat([state, x], 1), self.weight
        if self.transposed:  # [D, dim / groups, kernel], the first tap is of the current token
            weight = torch.unflatten(weight, 0, (self.groups, -1)).transpose(1, 2)
            weight = weight.flatten(0, 1).flip(-1)
        return self.convolve(seen.mT, weight), seen[:, 1:]


def _shape(
    x: TensorType,
    dim: int,
    kernel: int,
    stride: int,
    groups: int,
    causal: bool,
    depthwise: bool,
    bias: bool,
    dilation: int,
    transposed: bool,
) -> TensorType:
    need(x, "seq")
    need_groups(x.dim, dim, groups, depthwise)
    if x.may_pad and stride > 1:
        raise Mismatch(
            f"stride={stride} leaves no mask for padded tokens",
            param="stride",
            hint="only stride=1 on padded input",
        )
    length = x.length * stride if transposed else -(-x.length // stride)
    return seq(length, dim, may_pad=x.may_pad, grid=x.grid if stride == 1 else None)


NAMES = ("kernel", "stride", "causal", "bias", "dilation", "transposed")


def _init(x: TensorType, **params: Any) -> dict[str, Any]:
    groups = x.dim if params["depthwise"] else params["groups"]
    rest = {name: params[name] for name in NAMES}
    return {"dim": x.dim, "out": params["dim"], "groups": groups, **rest}


def _causal(x: TensorType, kernel: int, stride: int, causal: bool, **_: Any) -> bool:
    return stride == 1 and (causal or kernel == 1)


def _cost(x: TensorType, dim: int, kernel: int, stride: int, **params: Any) -> Cost:
    groups = x.dim if params["depthwise"] else params["groups"]
    weights = dim * (x.dim // groups) * kernel
    length = x.length if params["transposed"] else -(-x.length // stride)
    reach = params["dilation"] * (kernel - 1)
    return Cost(
        weights + params["bias"] * dim,
        2 * length * weights,
        state=4 * reach * x.dim * _causal(x, kernel, stride, params["causal"]),
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
        "dilation": Int(1, 4096, log=True, default=1),
        "transposed": Flag(),
    },
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=_causal,
    mask="use",
    state=True,
)
