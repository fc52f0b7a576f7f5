"""Dynamic pooling: the whole image in one cell, its own size, and unequal cells."""

import torch

from ops.pair.dyn_pool import DynamicPool
from ops.spec import image
from tests.ops.case import Case, close

OP_NAME = "dyn_pool"
CASES = [
    Case(image(3, 5, 13)),
    Case(image(2, 7, 6), {"height": 2, "width": 4, "kind": "mean"}),
]


def test_one_cell_is_the_whole_image() -> None:
    x = torch.randn(2, 3, 5, 7)
    close(DynamicPool(1, 1, "max")(x)[..., 0, 0], x.amax((2, 3)))
    close(DynamicPool(1, 1, "mean")(x)[..., 0, 0], x.mean((2, 3)))


def test_its_own_size_is_the_identity() -> None:
    x = torch.randn(2, 3, 5, 7)
    assert torch.equal(DynamicPool(5, 7, "max")(x), x)


def test_cells_cover_rows_from_floor_to_ceil() -> None:
    x = torch.arange(5.0).view(1, 1, 5, 1)
    assert DynamicPool(2, 1, "max")(x).flatten().tolist() == [2.0, 4.0]
    assert DynamicPool(2, 1, "mean")(x).flatten().tolist() == [1.0, 3.0]
