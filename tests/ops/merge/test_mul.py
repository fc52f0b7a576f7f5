"""Mul: any number of values, in any order; ones are neutral."""

import pytest
import torch

from ops.merge.mul import OP, Mul
from ops.spec import Mismatch, image, seq, vec
from tests.ops.case import Case, close

OP_NAME = "mul"
CASES = [
    Case((seq(9, 6), seq(9, 6))),
    Case((vec(5), vec(5), vec(5))),
    Case((image(3, 4, 5), image(3, 4, 5))),
]


def test_it_is_the_product_in_any_order() -> None:
    a, b, c = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    close(Mul()(a, b, c), a * b * c)
    close(Mul()(c, a, b), a * b * c)


def test_ones_are_neutral() -> None:
    a = torch.randn(2, 4, 5)
    assert torch.equal(Mul()(a, torch.ones_like(a)), a)


def test_shapes_must_be_equal() -> None:
    with pytest.raises(Mismatch, match="differ"):
        OP.shape(seq(9, 6), seq(9, 7))
