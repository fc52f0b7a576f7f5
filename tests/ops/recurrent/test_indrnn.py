"""IndRNN: the loop of the equation, no past, no mixing of channels, the range of its weights."""

import torch
from torch import Tensor

from ops.recurrent.indrnn import IndRNN
from ops.spec import seq
from tests.ops.case import Case, bench, close

OP_NAME = "indrnn"
CASES = [
    Case(seq(63, 6, may_pad=True)),
    Case(seq(21, 5), {"dim": 7, "bias": False}),
    Case(seq(2, 4)),
]


def loop(layer: IndRNN, x: Tensor) -> Tensor:
    h, rows = torch.zeros_like(layer.enter(x)[:, 0]), []
    for t in range(x.shape[1]):
        h = (layer.enter(x[:, t]) + layer.past * h).relu()
        rows.append(h)
    return torch.stack(rows, 1)


def test_it_is_the_loop_with_its_gradients() -> None:
    layer, x = IndRNN(6, 5, 40).double(), torch.randn(2, 40, 6, dtype=torch.float64)
    with torch.no_grad():
        layer.past[:2] *= -1
    x.requires_grad_()
    ours, expected = layer(x), loop(layer, x)
    close(ours, expected)
    weights = (x, *layer.parameters())
    found = torch.autograd.grad(ours.square().sum(), weights)
    close(tuple(found), tuple(torch.autograd.grad(expected.square().sum(), weights)))


def test_without_a_past_it_is_relu_of_a_linear_map() -> None:
    layer, x = IndRNN(6, 5, 9), torch.randn(2, 9, 6)
    with torch.no_grad():
        layer.past.zero_()
    close(layer(x), layer.enter(x).relu())


def test_a_weight_of_one_sums_what_is_positive() -> None:
    layer, x = IndRNN(4, 4, 9).double(), torch.rand(2, 9, 4, dtype=torch.float64)
    with torch.no_grad():
        layer.past.fill_(1.0)
        layer.enter.weight.copy_(torch.eye(4))
        layer.enter.bias.zero_()
    close(layer(x), x.cumsum(1))


def test_a_channel_s_past_is_its_own() -> None:
    layer = IndRNN(4, 4, 9)
    state = torch.rand(1, 4)
    changed = state.clone()
    changed[:, 0] += 5.0
    x = torch.randn(1, 1, 4)
    same = layer.step(x, state)[1][:, 1:] == layer.step(x, changed)[1][:, 1:]
    assert same.all()


def test_no_weight_starts_above_the_bound_of_the_paper() -> None:
    past = bench("indrnn", Case(seq(4, 300))).build().past
    assert past.min() >= 0.0
    assert 1.0 < past.max() <= 2 ** (1 / 4)
