"""Max pooling over a length or an area."""

import torch

from ops.pool.max2d import MaxPool2d
from ops.pool.max_pool import MaxPool
from ops.spec import image, seq
from tests.ops.case import Case, close

OP_NAME = "max_pool"
CASES = [
    Case(seq(9, 5), {"kernel": 2}),
    Case(seq(9, 5), {"kernel": 3, "stride": 2}),
    Case(image(3, 9, 7), {"kernel": 2}),
]


def test_a_window_keeps_its_largest_value_in_each_channel() -> None:
    x = torch.tensor([[[1.0, -1.0], [3.0, -5.0], [2.0, 7.0], [0.0, 8.0], [9.0, 9.0]]])
    close(MaxPool(kernel=2)(x), torch.tensor([[[3.0, -1.0], [2.0, 8.0]]]))


def test_a_window_of_one_changes_nothing() -> None:
    x = torch.randn(2, 7, 3)
    close(MaxPool(kernel=1)(x), x)


def test_on_an_image_it_is_max_pool2d() -> None:
    x = torch.randn(2, 3, 9, 7)
    close(MaxPool(kernel=3, stride=2)(x), MaxPool2d(kernel=3, stride=2)(x))
