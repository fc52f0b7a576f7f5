"""Dot: scores of attention, values weighted by them, and inner products."""

import pytest
import torch
from torch.nn import functional as F

from ops.merge.dot import OP, Dot
from ops.spec import Mismatch, image, scores, seq, vec
from tests.ops.case import Case, close

OP_NAME = "dot"
CASES = [
    Case((seq(9, 6), seq(6, 5))),
    Case((seq(9, 6), seq(6, 9)), {"scaled": True}),
    Case((image(3, 4, 5), image(3, 5, 2))),
    Case((vec(7), vec(7)), {"scaled": True}),
]


def test_with_softmax_between_two_it_is_attention() -> None:
    q, k, v = torch.randn(3, 2, 9, 6, dtype=torch.float64)
    weights = Dot(scaled=True)(q, k.mT).softmax(-1)
    close(Dot()(weights, v), F.scaled_dot_product_attention(q, k, v))


def test_of_two_vectors_it_is_the_inner_product() -> None:
    a, b = torch.randn(2, 3, 7)
    close(Dot()(a, b)[:, 0], torch.linalg.vecdot(a, b))
    assert OP.shape(vec(7), vec(7), scaled=False) == scores(1)


def test_the_first_keeps_its_grid() -> None:
    assert OP.shape(seq(6, 4, grid=(2, 3)), seq(4, 5), scaled=False) == seq(6, 5, grid=(2, 3))


def test_inner_sizes_must_match() -> None:
    with pytest.raises(Mismatch, match=r"6, must be .* 9") as found:
        OP.shape(seq(9, 6), seq(9, 6), scaled=False)
    assert "permute(order=[2,1])" in found.value.hint
    with pytest.raises(Mismatch, match="equal channels"):
        OP.shape(image(3, 4, 5), image(2, 5, 4), scaled=False)
    with pytest.raises(Mismatch, match="two values, got 3"):
        OP.shape(vec(7), vec(7), vec(7), scaled=False)
    with pytest.raises(Mismatch, match="needs vec"):
        OP.shape(vec(7), seq(7, 2), scaled=False)
