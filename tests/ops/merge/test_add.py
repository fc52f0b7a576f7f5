"""Add: any number of values, in any order."""

import pytest
import torch

from ops.merge.add import OP, Add
from ops.spec import Mismatch, image, seq, vec
from tests.ops.case import Case, close

OP_NAME = "add"
CASES = [
    Case((seq(9, 6), seq(9, 6))),
    Case((vec(5), vec(5), vec(5))),
    Case((image(3, 4, 5), image(3, 4, 5))),
]


def test_order_does_not_matter() -> None:
    a, b, c = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    close(Add()(a, b, c), Add()(c, a, b))


def test_shapes_must_be_equal() -> None:
    with pytest.raises(Mismatch, match="differ"):
        OP.shape(seq(9, 6), seq(9, 7))
