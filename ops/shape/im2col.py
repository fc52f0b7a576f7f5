"""Windows of an image as tokens.

    y_s = vec(window s of x),   channel first, then row, then column

Zeros around the image: `kernel // 2` for an odd kernel, none for an even one.
Shapes: image [B, C, H, W] -> seq [B, S, C kernel^2], S = H' W', H' = (H + 2 pad - kernel) // stride
+ 1; the type keeps the grid (H', W'). No parameters, no matmul.
From einspace, its (kernel, stride, pad) triples: Ericsson et al. 2024, arXiv:2405.20838.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Int
from ops.spec import Mismatch, Op, TensorType, need, no_cost, seq


class Im2Col(nn.Module):
    def __init__(self, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.padding = kernel // 2 if kernel % 2 else 0

    def forward(self, x: Tensor) -> Tensor:
        return F.unfold(x, self.kernel, padding=self.padding, stride=self.stride).mT


def _shape(x: TensorType, kernel: int, stride: int) -> TensorType:
    need(x, "image")
    channels, height, width = x.shape
    pad = kernel // 2 if kernel % 2 else 0
    if kernel > min(height, width) + 2 * pad:
        raise Mismatch(
            f"kernel={kernel} is larger than the {height} x {width} image",
            param="kernel",
            hint=f"an even kernel may be at most {min(height, width)} here",
        )
    grid = tuple((n + 2 * pad - kernel) // stride + 1 for n in (height, width))
    return seq(grid[0] * grid[1], channels * kernel**2, grid=(grid[0], grid[1]))


OP = Op(
    name="im2col",
    module=Im2Col,
    params={"kernel": Int(1, 64), "stride": Int(1, 64, log=True, default=1)},
    shape=_shape,
    init=lambda x, kernel, stride: {"kernel": kernel, "stride": stride},
    cost=no_cost,
    causal=False,
    paper="arXiv:2405.20838",
)
