"""Dynamic pooling: an image of any size to a fixed grid of cells.

    y_ab = max or mean of x over rows floor(a H/h) .. ceil((a+1) H/h) and columns likewise

Shapes: image [B, C, H, W] -> image [B, C, height, width]. Not causal. No parameters, no matmul.
Papers: Socher et al. 2011, "Dynamic pooling and unfolding recursive autoencoders"; Pang et al.
2016, arXiv:1602.06359, section 3.2 (MatchPyramid: max; MatchZoo takes the mean).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Int, Word
from ops.spec import Op, TensorType, image, need, no_cost


class DynamicPool(nn.Module):
    def __init__(self, height: int, width: int, kind: str) -> None:
        super().__init__()
        self.size, self.kind = (height, width), kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "max":
            return F.adaptive_max_pool2d(x, self.size)
        return F.adaptive_avg_pool2d(x, self.size)


def _shape(x: TensorType, height: int, width: int, kind: str) -> TensorType:
    need(x, "image")
    return image(x.dim, height, width)


OP = Op(
    name="dyn_pool",
    module=DynamicPool,
    params={
        "height": Int(1, 1024, log=True, default=3),
        "width": Int(1, 1024, log=True, default=10),
        "kind": Word(("max", "mean"), default="max"),
    },
    shape=_shape,
    init=lambda x, **params: params,
    cost=no_cost,
    causal=False,
    paper="arXiv:1602.06359",
)
