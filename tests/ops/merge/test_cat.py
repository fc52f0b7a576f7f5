"""Cat: the axes, the default one, and what padding forbids."""

import pytest
import torch

from ops.merge.cat import OP, Cat
from ops.shape.split import Split
from ops.spec import Mismatch, image, seq, vec
from tests.ops.case import Case

OP_NAME = "cat"
CASES = [
    Case((seq(9, 6, may_pad=True), seq(9, 4, may_pad=True))),
    Case((seq(9, 6), seq(5, 6)), {"axis": 1}),
    Case((vec(5), vec(5), vec(3))),
    Case((image(3, 4, 5), image(2, 4, 5))),
    Case((image(3, 4, 5), image(3, 4, 2)), {"axis": 3}),
]


def test_without_an_axis_the_width_grows() -> None:
    assert OP.shape(seq(9, 6, grid=(3, 3)), seq(9, 4), axis=None) == seq(9, 10, grid=(3, 3))
    assert OP.shape(image(3, 4, 5), image(2, 4, 5), axis=None) == image(5, 4, 5)


def test_along_time_it_is_not_causal_and_the_grid_is_lost() -> None:
    types = (seq(9, 6, grid=(3, 3)), seq(9, 6))
    assert OP.shape(*types, axis=1) == seq(18, 6)
    assert not OP.is_causal(*types, axis=1)
    assert OP.is_causal(*types, axis=None)


@pytest.mark.parametrize("axis", [1, 2])
def test_it_undoes_split(axis: int) -> None:
    x = torch.randn(2, 6, 9)
    assert torch.equal(Cat(axis)(*Split(axis, 3)(x)), x)


def test_padding_anywhere_makes_the_result_padded() -> None:
    assert OP.shape(seq(9, 6), seq(9, 4, may_pad=True), axis=2).may_pad


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(Mismatch, match="differ outside axis 2"):
        OP.shape(seq(9, 6), seq(8, 6), axis=None)
    with pytest.raises(Mismatch, match="axis=3") as found:
        OP.shape(seq(9, 6), seq(9, 6), axis=3)
    assert found.value.param == "axis"
    with pytest.raises(Mismatch, match="padded"):
        OP.shape(seq(9, 6), seq(9, 6, may_pad=True), axis=1)
    with pytest.raises(Mismatch, match="two values"):
        OP.shape(seq(9, 6), axis=None)
    with pytest.raises(Mismatch, match="differ"):
        OP.shape(vec(9), seq(9, 6), axis=1)
