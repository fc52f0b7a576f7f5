"""Simple GLU: a gated MLP without an activation.

    y = (x W_1 * x W_2) W_3

Shapes: seq [B, T, D] and vec [B, D], kept; hidden = mult * D rounded up to a multiple of 8.
No biases. Cost: 3 D hidden parameters; 6 D hidden FLOPs per vector.
Paper: Qin et al. 2023, "TransNormerLLM", arXiv:2307.14995, section 3 (SGLU; mult 2 as in the
authors' small implementation).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Float
from ops.kernels.rows import GATED, gated
from ops.mlp.common import gated_hidden, mlp_shape
from ops.spec import Cost, Op


class SGLU(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.pair = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(gated(self.pair(x), "none"), self.down.weight)


OP = Op(
    name="sglu",
    module=SGLU,
    params={"mult": Float(0.125, 16.0, default=2.0)},
    shape=mlp_shape,
    init=lambda x, mult: {"dim": x.dim, "hidden": gated_hidden(x.dim, mult)},
    cost=lambda x, mult: Cost(
        3 * x.dim * gated_hidden(x.dim, mult), 6 * x.numel * gated_hidden(x.dim, mult)
    ),
    causal=True,
    uses=GATED,
    paper="arXiv:2307.14995",
)
