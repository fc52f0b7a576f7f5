"""Image pooling by the mean value of each window."""

import pytest
import torch

from ops.pool.avg2d import OP, AvgPool2d
from ops.spec import Mismatch, image
from tests.ops.case import Case, close

OP_NAME = "avg_pool2d"
CASES = [
    Case(image(3, 6, 9)),
    Case(image(3, 7, 5), {"kernel": 3, "stride": 1}),
    Case(image(3, 7, 5), {"kernel": 2, "stride": 3}),
]


def test_a_window_as_large_as_the_image_gives_one_number() -> None:
    x = torch.randn(2, 3, 4, 4)
    close(AvgPool2d(4)(x)[:, :, 0, 0], x.mean((2, 3)))


def test_windows_of_one_are_the_identity() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(AvgPool2d(1)(x), x)


def test_an_image_smaller_than_the_window_is_refused() -> None:
    with pytest.raises(Mismatch, match="kernel=3 is larger than the 2 x 5") as found:
        OP.shape(image(3, 2, 5), kernel=3, stride=None)
    assert found.value.param == "kernel"
    assert "at most 2" in found.value.hint
