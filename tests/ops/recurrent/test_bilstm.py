"""Bidirectional LSTM: PyTorch's own with the same weights, and padding wherever it lies."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ops.recurrent.bilstm import OP, BiLSTM
from ops.recurrent.lstm import LSTM
from ops.spec import Mismatch, seq
from tests.ops.case import Case, close
from tests.ops.recurrent.test_lstm import cell_loop

OP_NAME = "bilstm"
CASES = [
    Case(seq(21, 6, may_pad=True), flops="analytic"),
    Case(seq(9, 5), {"dim": 6}, flops="analytic"),
    Case(seq(1, 5, may_pad=True), flops="analytic"),
]


def test_it_is_the_bidirectional_lstm_of_pytorch() -> None:
    layer = BiLSTM(6, 4).double()
    peer = nn.LSTM(6, 4, batch_first=True, bidirectional=True).double()
    weights = dict(layer.ahead.state_dict())
    weights |= {f"{name}_reverse": value for name, value in layer.back.state_dict().items()}
    peer.load_state_dict(weights)
    x = torch.randn(2, 11, 6, dtype=torch.float64)
    close(layer(x), peer(x)[0])


@pytest.mark.parametrize("place", [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [0, 3, 4, 7, 8]])
def test_padded_tokens_are_passed_over(place: list[int]) -> None:
    layer, x = BiLSTM(6, 4).double(), torch.randn(2, 9, 6, dtype=torch.float64)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[:, place] = True
    y = layer(x, mask)
    close(y[:, place], layer(x[:, place]))
    assert not y[~mask].any()


def test_halves_meet_the_two_ends() -> None:
    layer, x = BiLSTM(6, 4), torch.randn(1, 9, 6)
    changed = x.clone()
    changed[:, 5] += 1.0
    same = (layer(x) == layer(changed)).view(9, 2, 4).all(-1)
    assert same[:, 0].tolist() == [True] * 5 + [False] * 4
    assert same[:, 1].tolist() == [False] * 6 + [True] * 3


def test_it_multiplies_as_much_as_two_loops_of_cells() -> None:
    with FlopCounterMode(display=False) as counter:
        cell_loop(LSTM(6), torch.randn(1, 11, 6))
    assert OP.cost(seq(11, 6), dim=None).flops == 2 * counter.get_total_flops()


def test_a_width_without_two_halves_is_refused() -> None:
    with pytest.raises(Mismatch, match="dim=5") as found:
        OP.shape(seq(9, 6), dim=5)
    assert found.value.hint == "dim must be even"
