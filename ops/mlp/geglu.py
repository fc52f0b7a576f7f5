"""GeGLU: a gated MLP whose gate passes through GELU.

    y = (act(x W_gate) * (x W_up)) W_down,   act(u) = u Phi(u), exact

Shapes: seq [B, T, D] and vec [B, D], kept; hidden = mult * D rounded up to a multiple of 8.
No biases. Cost: 3 D hidden parameters; 6 D hidden FLOPs per vector.
Paper: Shazeer 2020, "GLU Variants Improve Transformer", arXiv:2002.05202, eq. 6.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Float
from ops.kernels.rows import GATED, gated
from ops.mlp.common import gated_hidden, mlp_shape
from ops.spec import Cost, Op


class GeGLU(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(gated(self.gate_up(x), "gelu"), self.down.weight)


OP = Op(
    name="geglu",
    module=GeGLU,
    params={"mult": Float(0.125, 16.0, default=8 / 3)},
    shape=mlp_shape,
    init=lambda x, mult: {"dim": x.dim, "hidden": gated_hidden(x.dim, mult)},
    cost=lambda x, mult: Cost(
        3 * x.dim * gated_hidden(x.dim, mult), 6 * x.numel * gated_hidden(x.dim, mult)
    ),
    causal=True,
    uses=GATED,
    paper="arXiv:2002.05202",
)
