"""Group norm: the channels in `groups`, each group given mean 0 and variance 1.

    y = (x - mean_g x) / sqrt(var_g x + eps) * gamma + beta,   biased variance

seq and vec: each vector on its own, over the D / groups channels of a group (with groups = heads
the norm after a linear attention). image: over the channels of a group and all places.
Shapes: seq [B, T, D], vec [B, D], image [B, C, H, W], kept. Cost: 2 D parameters, no matmul.
Paper: Wu & He 2018, "Group Normalization", arXiv:1803.08494, eq. 1-7.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Float, Int
from ops.spec import Cost, Op, TensorType, need, need_divides


class GroupNorm(nn.Module):
    def __init__(self, dim: int, groups: int, eps: float = 1e-5) -> None:
        super().__init__()
        norm = nn.GroupNorm(groups, dim)
        self.groups, self.eps, self.weight, self.bias = groups, eps, norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1) if x.dim() == 3 else x
        return F.group_norm(flat, self.groups, self.weight, self.bias, self.eps).view_as(x)


def _shape(x: TensorType, groups: int, eps: float) -> TensorType:
    need(x, "seq", "vec", "image")
    need_divides(groups, x.dim, param="groups")
    return x


OP = Op(
    name="group_norm",
    module=GroupNorm,
    params={
        "groups": Int(1, 1024, log=True),
        "eps": Float(1e-12, 1e-1, log=True, default=1e-5),
    },
    shape=_shape,
    cost=lambda x, groups, eps: Cost(params=2 * x.dim),
    causal=True,
    paper="arXiv:1803.08494",
)
