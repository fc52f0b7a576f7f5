"""SGLU is a quadratic form: even, of degree two."""

import torch

from ops.mlp.sglu import SGLU
from ops.spec import seq, vec
from tests.ops.case import Case, close

OP_NAME = "sglu"
CASES = [Case(seq(9, 12, may_pad=True)), Case(vec(7), {"mult": 1.5})]


def test_it_is_of_degree_two() -> None:
    layer = SGLU(12, 16).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    close(layer(3.0 * x), 9.0 * layer(x))
    close(layer(-x), layer(x))
