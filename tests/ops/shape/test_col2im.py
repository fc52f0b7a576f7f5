"""Col2im: the way back from tokens to an image."""

import pytest
import torch

from ops.shape.col2im import OP, Col2Im
from ops.shape.im2col import Im2Col
from ops.spec import Mismatch, image, seq
from tests.ops.case import Case

OP_NAME = "col2im"
CASES = [Case(seq(6, 5, grid=(2, 3)))]


def test_it_undoes_windows_of_one() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(Col2Im(4, 5)(Im2Col(1)(x)), x)


def test_a_token_goes_to_its_row_and_column() -> None:
    x = torch.randn(2, 6, 5)
    assert torch.equal(Col2Im(2, 3)(x)[:, :, 1, 2], x[:, 5])
    assert OP.shape(seq(6, 5, grid=(2, 3))) == image(5, 2, 3)


def test_without_a_fitting_grid_it_is_refused() -> None:
    with pytest.raises(Mismatch, match="comes from no image"):
        OP.shape(seq(6, 5))
    with pytest.raises(Mismatch, match="grid of 2 x 2 needs 4"):
        OP.shape(seq(6, 5, grid=(2, 2)))
