"""GELU: its formula, and shapes kept."""

import torch

from ops.act.gelu import GELU
from ops.spec import image, seq, vec
from tests.ops.case import Case, close

OP_NAME = "gelu"
CASES = [Case(seq(9, 6, may_pad=True)), Case(vec(7)), Case(image(3, 4, 5))]


def test_it_is_the_formula() -> None:
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    close(GELU()(x), x * 0.5 * (1 + torch.erf(x / 2**0.5)))
