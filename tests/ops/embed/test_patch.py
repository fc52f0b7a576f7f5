"""Patches: squares of the image, each mapped to a token."""

import pytest
import torch

from ops.embed.patch import OP, Patch
from ops.spec import Mismatch, image, seq
from tests.ops.case import Case, close

OP_NAME = "patch"
CASES = [
    Case(image(3, 6, 9), {"dim": 5, "size": 3}),
    Case(image(2, 4, 4), {"dim": 6, "size": 1, "bias": False}),
]


def test_a_token_is_a_linear_map_of_its_square() -> None:
    layer, x = Patch(3, 5, 2).double(), torch.randn(2, 3, 4, 6, dtype=torch.float64)
    square = x[:, :, 2:4, 4:6].flatten(1)
    close(layer(x)[:, 5], square @ layer.weight.flatten(1).T + layer.bias)


def test_the_type_keeps_the_grid() -> None:
    assert OP.shape(image(3, 6, 9), dim=5, size=3, bias=True) == seq(6, 5, grid=(2, 3))


def test_size_must_divide_the_image() -> None:
    with pytest.raises(Mismatch, match="size=4 does not divide 6 x 9") as found:
        OP.shape(image(3, 6, 9), dim=5, size=4, bias=True)
    assert found.value.param == "size"
    assert "1, 3" in found.value.hint
