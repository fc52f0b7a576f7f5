"""Upsample: pixels become squares, which pooling turns back."""

import torch
from torch.nn import functional as F

from ops.shape.upsample import Upsample
from ops.spec import image
from tests.ops.case import Case, close

OP_NAME = "upsample"
CASES = [
    Case(image(3, 4, 5)),
    Case(image(3, 4, 5), {"scale": 3}),
    Case(image(3, 4, 5), {"scale": 1}),
]


def test_pooling_undoes_it() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(F.max_pool2d(Upsample(3)(x), 3), x)
    close(F.avg_pool2d(Upsample(3)(x), 3), x)
