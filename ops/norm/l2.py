"""L2 norm: every vector is divided by its length.

    y = x / max(|x|, eps)

Shapes: seq [B, T, D] and vec [B, D] over D; image [B, C, H, W] over C at every place.
Lengths in fp32, output in the input's dtype; a zero vector stays zero. No parameters, no matmul.
Source: F.normalize of PyTorch (fla's x rsqrt(|x|^2 + 1e-6) differs near 0).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Float
from ops.spec import Op, TensorType, need, no_cost


class L2Norm(nn.Module):
    def __init__(self, eps: float = 1e-12, axis: int = -1) -> None:
        super().__init__()
        self.eps, self.axis = eps, axis

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        return F.normalize(x.to(wide), dim=self.axis, eps=self.eps).to(x.dtype)


def _shape(x: TensorType, eps: float) -> TensorType:
    need(x, "seq", "vec", "image")
    return x


OP = Op(
    name="l2norm",
    module=L2Norm,
    params={"eps": Float(1e-12, 1e-1, log=True, default=1e-12)},
    shape=_shape,
    init=lambda x, eps: {"eps": eps, "axis": 1 if x.kind == "image" else -1},
    cost=no_cost,
    causal=True,
)
