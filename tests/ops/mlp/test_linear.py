"""Linear: the last axis in every mode."""

import torch

from ops.mlp.linear import Linear
from ops.spec import image, seq, vec
from tests.ops.case import Case, close

OP_NAME = "linear"
CASES = [
    Case(seq(9, 12, may_pad=True), {"dim": 7}),
    Case(vec(5), {"dim": 3, "bias": False}),
    Case(image(3, 4, 6), {"dim": 5}),
]


def test_it_is_a_matrix_product() -> None:
    layer = Linear(6, 4)
    x = torch.randn(2, 3, 6)
    close(layer(x), x @ layer.weight.T + layer.bias)
