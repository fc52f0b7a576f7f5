"""Max pooling of an image: the largest value of each window.

    y[c, i, j] = max_{r, s < kernel} x[c, stride i + r, stride j + s]

Shapes: image [B, C, H, W] -> [B, C, (H - kernel) // stride + 1, (W - kernel) // stride + 1];
without a stride the windows lie side by side. No parameters, no matmul.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Int
from ops.pool.common import pooled
from ops.spec import Op, no_cost


class MaxPool2d(nn.Module):
    def __init__(self, kernel: int = 2, stride: int | None = None) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel, self.stride)


OP = Op(
    name="max_pool2d",
    module=MaxPool2d,
    params={
        "kernel": Int(1, 256, log=True, default=2),
        "stride": Int(1, 256, log=True, default=None, none=True),
    },
    shape=pooled,
    init=lambda x, kernel, stride: {"kernel": kernel, "stride": stride},
    cost=no_cost,
    causal=False,
    inline=lambda xs, params: f"F.max_pool2d({xs[0]}, {params['kernel']}, {params['stride']})",
)
