"""Im2col: with a linear map it is a convolution; einspace's triples of sizes."""

import pytest
import torch
from torch.nn import functional as F

from ops.shape.im2col import OP, Im2Col
from ops.spec import Mismatch, image, seq
from tests.ops.case import Case, close

OP_NAME = "im2col"
CASES = [
    Case(image(3, 6, 5), {"kernel": 3}),
    Case(image(3, 6, 5), {"kernel": 3, "stride": 2}),
    Case(image(3, 8, 4), {"kernel": 4, "stride": 4}),
    Case(image(3, 6, 5), {"kernel": 1, "stride": 2}),
]


def test_a_linear_map_of_windows_is_a_convolution() -> None:
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    windows = Im2Col(3, stride=2)(x) @ weight.flatten(1).T
    close(windows, F.conv2d(x, weight, stride=2, padding=1).flatten(2).mT)


@pytest.mark.parametrize(
    ("kernel", "stride", "side"),
    [(1, 1, 16), (1, 2, 8), (3, 1, 16), (3, 2, 8), (4, 4, 4), (8, 8, 2), (16, 16, 1)],
)
def test_the_sizes_are_those_of_einspace(kernel: int, stride: int, side: int) -> None:
    expected = seq(side**2, 3 * kernel**2, grid=(side, side))
    assert OP.shape(image(3, 16, 16), kernel=kernel, stride=stride) == expected


def test_a_window_larger_than_the_image_is_refused() -> None:
    with pytest.raises(Mismatch, match="kernel=8 is larger than the 6 x 5") as found:
        OP.shape(image(3, 6, 5), kernel=8, stride=8)
    assert found.value.param == "kernel"
