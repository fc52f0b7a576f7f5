"""Softmax: sums to one along the last axis."""

import torch

from ops.act.softmax import Softmax
from ops.spec import image, seq, vec
from tests.ops.case import Case, close

OP_NAME = "softmax"
CASES = [Case(seq(9, 6, may_pad=True)), Case(vec(7)), Case(image(3, 4, 5))]


def test_the_last_axis_sums_to_one() -> None:
    y = Softmax()(torch.randn(2, 3, 4, 5))
    close(y.sum(-1), torch.ones(2, 3, 4))
    assert (y > 0).all()


def test_large_numbers_stay_finite() -> None:
    assert Softmax()(torch.tensor([[1e4, -1e4, 0.0]])).isfinite().all()
