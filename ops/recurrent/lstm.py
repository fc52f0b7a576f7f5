"""LSTM: long short-term memory with input, forget and output gates.

    i, f, o = sig(W x + b + U h + c),  g = tanh(W_g x + b_g + U_g h + c_g)
    c' = f c + i g,  h' = o tanh(c')

Causal. Shapes: x [B, T, D] -> [B, T, D], the hidden width is D. Mask: padding on the right changes
no token before it, so none is taken. State: h and c, [B, D] each.
Cost: 8 D^2 + 8 D parameters, 16 T D^2 FLOPs.
Papers: Hochreiter & Schmidhuber 1997; Gers et al. 2000 (the forget gate).
"""

from torch import Tensor, nn

from ops.spec import Cost, Op, TensorType, need


class LSTM(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.cells = nn.LSTM(dim, dim, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cells(x)[0]
        return y

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        weight = next(self.cells.parameters())
        zeros = weight.new_zeros(batch, self.cells.hidden_size)
        return zeros, zeros.clone()

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, (h, c) = self.cells(x, (state[0][None], state[1][None]))
        return y, (h[0].to(state[0].dtype), c[0].to(state[1].dtype))


def _shape(x: TensorType) -> TensorType:
    need(x, "seq")
    return x


def _cost(x: TensorType) -> Cost:
    t, d = x.length, x.dim
    return Cost(8 * d * d + 8 * d, 16 * t * d * d, 24 * t * d, 8 * d)


OP = Op(
    name="lstm",
    module=LSTM,
    shape=_shape,
    cost=_cost,
    causal=True,
    state=True,
    paper="doi:10.1162/neco.1997.9.8.1735",
)
