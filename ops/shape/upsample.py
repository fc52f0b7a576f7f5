"""Nearest-neighbour upsampling of an image: each pixel becomes a square of scale x scale.

    y[c, i, j] = x[c, i // scale, j // scale]

Shapes: image [B, C, H, W] -> [B, C, scale H, scale W]. No parameters, no matmul.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Int
from ops.spec import Op, TensorType, image, need, no_cost


class Upsample(nn.Module):
    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.scale)


def _shape(x: TensorType, scale: int) -> TensorType:
    need(x, "image")
    return image(x.shape[0], scale * x.shape[1], scale * x.shape[2])


OP = Op(
    name="upsample",
    module=Upsample,
    params={"scale": Int(1, 16, default=2)},
    shape=_shape,
    init=lambda x, scale: {"scale": scale},
    cost=no_cost,
    causal=False,
    inline=lambda xs, params: f"F.interpolate({xs[0]}, scale_factor={params['scale']})",
)
