"""GRU: the equations, the count of the multiplications, and a kept state."""

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ops.recurrent.gru import GRU, OP
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "gru"
CASES = [
    Case(seq(63, 6, may_pad=True), flops="analytic"),
    Case(seq(1, 5), flops="analytic"),
]


def cell_loop(layer: GRU, x: Tensor) -> Tensor:
    """The equations of the docstring, one token at a time."""
    w, u, b, c = (p.detach() for p in layer.cells.parameters())
    h, rows = x.new_zeros(x.shape[0], x.shape[2]), []
    for t in range(x.shape[1]):
        ri, zi, ni = (x[:, t] @ w.T + b).chunk(3, -1)
        rh, zh, nh = (h @ u.T + c).chunk(3, -1)
        r, z = (ri + rh).sigmoid(), (zi + zh).sigmoid()
        h = (1 - z) * (ni + r * nh).tanh() + z * h
        rows.append(h)
    return torch.stack(rows, 1)


def test_it_is_the_equations_and_multiplies_as_much() -> None:
    layer = GRU(6).double()
    x = torch.randn(2, 11, 6, dtype=torch.float64)
    with FlopCounterMode(display=False) as counter:
        expected = cell_loop(layer, x)
    close(layer(x), expected)
    assert counter.get_total_flops() == 2 * OP.cost(seq(11, 6)).flops


def test_an_open_update_gate_keeps_the_state() -> None:
    layer = GRU(6).double()
    with torch.no_grad():
        layer.cells.bias_ih_l0[6:12] = 1e4
    state = torch.randn(2, 6, dtype=torch.float64)
    _, after = layer.step(torch.randn(2, 1, 6, dtype=torch.float64), state)
    close(after, state)
