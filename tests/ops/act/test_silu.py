"""SiLU: its formula, and shapes kept."""

import torch

from ops.act.silu import SiLU
from ops.spec import image, seq, vec
from tests.ops.case import Case, close

OP_NAME = "silu"
CASES = [Case(seq(9, 6, may_pad=True)), Case(vec(7)), Case(image(3, 4, 5))]


def test_it_is_the_formula() -> None:
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    close(SiLU()(x), x / (1 + torch.exp(-x)))
