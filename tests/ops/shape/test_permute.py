"""Permute: sizes follow, the way back exists, time may not move under padding."""

import pytest
import torch

from ops.shape.permute import OP, Permute
from ops.spec import Mismatch, image, seq
from tests.ops.case import Case

OP_NAME = "permute"
CASES = [
    Case(seq(9, 6), {"order": (2, 1)}),
    Case(seq(9, 6, may_pad=True), {"order": (1, 2)}),
    Case(image(3, 4, 5), {"order": (2, 3, 1)}),
    Case(image(3, 4, 5), {"order": (3, 1, 2)}),
]


def test_it_can_be_undone() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(Permute((3, 1, 2))(Permute((2, 3, 1))(x)), x)
    assert torch.equal(Permute((2, 1))(Permute((2, 1))(x[:, 0])), x[:, 0])


def test_the_grid_is_lost_when_axes_move() -> None:
    x = seq(9, 6, grid=(3, 3))
    assert OP.shape(x, order=(2, 1)) == seq(6, 9)
    assert OP.shape(x, order=(1, 2)) == x


def test_it_is_causal_only_where_time_stays() -> None:
    assert not OP.is_causal(seq(9, 6), order=(2, 1))
    assert OP.is_causal(seq(9, 6), order=(1, 2))


def test_what_does_not_fit_is_refused() -> None:
    for order in ((1, 1), (1, 2, 3), (3, 1), (1,)):
        with pytest.raises(Mismatch, match="does not order the 2 axes") as found:
            OP.shape(seq(9, 6), order=order)
        assert found.value.param == "order"
    with pytest.raises(Mismatch, match="padded"):
        OP.shape(seq(9, 6, may_pad=True), order=(2, 1))
