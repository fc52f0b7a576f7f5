"""Leaky ReLU: its two limits."""

import torch

from ops.act.leaky_relu import LeakyReLU
from ops.spec import image, seq, vec
from tests.ops.case import Case, close

OP_NAME = "leaky_relu"
CASES = [
    Case(seq(9, 6, may_pad=True)),
    Case(vec(7), {"slope": 0.25}),
    Case(image(3, 4, 5), {"slope": 0.0}),
]


def test_slope_zero_is_relu_and_slope_one_is_the_identity() -> None:
    x = torch.randn(50)
    close(LeakyReLU(0.0)(x), x.clamp(min=0))
    close(LeakyReLU(1.0)(x), x)
