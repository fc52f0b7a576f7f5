"""LSTM: the equations, the count of the multiplications, and a kept cell."""

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ops.recurrent.lstm import LSTM, OP
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "lstm"
CASES = [
    Case(seq(63, 6, may_pad=True), flops="analytic"),
    Case(seq(1, 5), flops="analytic"),
]


def cell_loop(layer: LSTM, x: Tensor) -> Tensor:
    """The equations of the docstring, one token at a time; gates are packed i, f, g, o."""
    w, u, b, a = (p.detach() for p in layer.cells.parameters())
    h = c = x.new_zeros(x.shape[0], x.shape[2])
    rows = []
    for t in range(x.shape[1]):
        i, f, g, o = (x[:, t] @ w.T + b + h @ u.T + a).chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        rows.append(h)
    return torch.stack(rows, 1)


def test_it_is_the_equations_and_multiplies_as_much() -> None:
    layer = LSTM(6).double()
    x = torch.randn(2, 11, 6, dtype=torch.float64)
    with FlopCounterMode(display=False) as counter:
        expected = cell_loop(layer, x)
    close(layer(x), expected)
    assert counter.get_total_flops() == 2 * OP.cost(seq(11, 6)).flops


def test_an_open_forget_gate_and_a_shut_input_gate_keep_the_cell() -> None:
    layer = LSTM(6).double()
    with torch.no_grad():
        layer.cells.bias_ih_l0[:6], layer.cells.bias_ih_l0[6:12] = -1e4, 1e4
    cell = torch.randn(2, 6, dtype=torch.float64)
    _, (_, after) = layer.step(torch.randn(2, 1, 6, dtype=torch.float64), (cell.tanh(), cell))
    close(after, cell)
