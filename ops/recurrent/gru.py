"""GRU: the gated recurrent unit, with the reset gate after the recurrent product.

    r = sig(W_r x + b_r + U_r h + c_r),  z = sig(W_z x + b_z + U_z h + c_z)
    n = tanh(W_n x + b_n + r (U_n h + c_n)),  h' = (1 - z) n + z h

Causal. Shapes: x [B, T, D] -> [B, T, D], the hidden width is D. Mask: padding on the right changes
no token before it, so none is taken. State: h [B, D].
Cost: 6 D^2 + 6 D parameters, 12 T D^2 FLOPs.
Papers: Cho et al. 2014, arXiv:1406.1078; the reset placement of cuDNN, arXiv:1412.3555.
"""

from torch import Tensor, nn

from ops.spec import Cost, Op, TensorType, need


class GRU(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.cells = nn.GRU(dim, dim, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cells(x)[0]
        return y

    def init_state(self, batch: int, length: int) -> Tensor:
        weight = next(self.cells.parameters())
        return weight.new_zeros(batch, self.cells.hidden_size)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.cells(x, state[None])
        return y, state[0]


def _shape(x: TensorType) -> TensorType:
    need(x, "seq")
    return x


def _cost(x: TensorType) -> Cost:
    t, d = x.length, x.dim
    return Cost(6 * d * d + 6 * d, 12 * t * d * d, 16 * t * d, 4 * d)


OP = Op(
    name="gru",
    module=GRU,
    shape=_shape,
    cost=_cost,
    causal=True,
    state=True,
    paper="arXiv:1406.1078",
)
