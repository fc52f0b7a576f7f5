"""Dropout: the mean is kept in training, everything in eval."""

import pytest
import torch

from ops.act.dropout import Dropout
from ops.spec import image, seq, vec
from tests.ops.case import Case

OP_NAME = "dropout"
CASES = [
    Case(
        seq(9, 6, may_pad=True),
        waive={"causality": "in training the two runs draw different numbers to drop"},
    ),
    Case(vec(7), {"p": 0.0}),
    Case(image(3, 4, 5), {"p": 0.5}),
]


def test_eval_is_the_identity() -> None:
    x = torch.randn(2, 9, 6)
    assert torch.equal(Dropout(0.5).eval()(x), x)


def test_what_is_left_is_scaled_to_keep_the_mean() -> None:
    torch.manual_seed(0)
    y = Dropout(0.25)(torch.ones(40_000))
    assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert y.mean().item() == pytest.approx(1.0, abs=0.02)
