"""Convolution over an image, zeros around it: `kernel // 2` on each side.

    y[:, i, j] = b + sum_{r, s < kernel} W_rs x[:, stride i + r - pad, stride j + s - pad]

`groups` cuts the channels into groups that do not mix; `depthwise` is one group per channel.
Shapes: image [B, C, H, W] -> [B, dim, H', W'], H' = (H + 2 (kernel // 2) - kernel) // stride + 1,
which is ceil(H / stride) for an odd kernel; with this padding no image is too small.
Cost: dim C kernel^2 / groups + dim parameters; 2 H' W' dim C kernel^2 / groups FLOPs.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Int
from ops.conv.common import need_groups
from ops.spec import Cost, Op, TensorType, image, need


class Conv2d(nn.Module):
    def __init__(
        self,
        dim: int,
        out: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(dim, out, kernel, groups=groups, bias=bias)
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding, self.groups = stride, kernel // 2, groups

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, groups=self.groups)


def _shape(
    x: TensorType, dim: int, kernel: int, stride: int, groups: int, depthwise: bool, bias: bool
) -> TensorType:
    need(x, "image")
    need_groups(x.dim, dim, groups, depthwise)
    height, width = ((n + 2 * (kernel // 2) - kernel) // stride + 1 for n in x.shape[1:])
    return image(dim, height, width)


def _init(x: TensorType, **params: Any) -> dict[str, Any]:
    groups = x.dim if params["depthwise"] else params["groups"]
    rest = {name: params[name] for name in ("kernel", "stride", "bias")}
    return {"dim": x.dim, "out": params["dim"], "groups": groups, **rest}


def _cost(x: TensorType, **params: Any) -> Cost:
    y = _shape(x, **params)
    groups = x.dim if params["depthwise"] else params["groups"]
    per_output = x.dim // groups * params["kernel"] ** 2
    return Cost(y.dim * per_output + params["bias"] * y.dim, 2 * y.numel * per_output)


OP = Op(
    name="conv2d",
    module=Conv2d,
    params={
        "dim": Int(1, 65536, log=True),
        "kernel": Int(1, 64, default=3),
        "stride": Int(1, 64, log=True, default=1),
        "groups": Int(1, 65536, log=True, default=1),
        "depthwise": Flag(),
        "bias": Flag(default=True),
    },
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=False,
)
