"""Max pooling of a sequence or an image: the largest value of each window.

    y_t,d = max_{r < kernel} x_{stride t + r, d}   over a sequence; likewise on an image's axes

Shapes: [B, T, D] -> [B, (T - kernel) // stride + 1, D]; [B, C, H, W] -> both H and W so. Without a
stride the windows lie side by side. No parameters, no matmul. `max_pool2d` takes images only.
Source: Riesenhuber & Poggio 1999, "Hierarchical models of object recognition in cortex".
"""

from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Int
from ops.pool.common import pooled
from ops.spec import Mismatch, Op, TensorType, need, no_cost, seq


class MaxPool(nn.Module):
    def __init__(self, kernel: int = 2, stride: int | None = None) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            return F.max_pool2d(x, self.kernel, self.stride)
        return F.max_pool1d(x.transpose(1, 2), self.kernel, self.stride).transpose(1, 2)


def _shape(x: TensorType, kernel: int, stride: int | None) -> TensorType:
    need(x, "seq", "image")
    if x.kind == "image":
        return pooled(x, kernel, stride)
    if kernel > x.length:
        raise Mismatch(
            f"kernel={kernel} is larger than the length {x.length}",
            param="kernel",
            hint=f"kernel may be at most {x.length} here",
        )
    return seq((x.length - kernel) // (stride or kernel) + 1, x.dim)


OP = Op(
    name="max_pool",
    module=MaxPool,
    params={
        "kernel": Int(1, 256, log=True, default=2),
        "stride": Int(1, 256, log=True, default=None, none=True),
    },
    shape=_shape,
    init=lambda x, kernel, stride: {"kernel": kernel, "stride": stride},
    cost=no_cost,
    causal=False,
    mask="none",
    paper="Riesenhuber & Poggio 1999",
)
