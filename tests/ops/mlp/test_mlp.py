"""MLP: two linear maps and what is between them."""

import pytest
import torch
from torch.nn import functional as F

from ops.mlp.mlp import MLP, OP
from ops.spec import Mismatch, image, seq, vec
from tests.ops.case import Case, close

OP_NAME = "mlp"
CASES = [
    Case(seq(9, 6, may_pad=True)),
    Case(vec(7), {"mult": 2, "act": "relu", "bias": False}),
    Case(seq(9, 5), {"mult": 0.5, "act": "silu"}),
]


@pytest.mark.parametrize("act", ["gelu", "relu", "silu"])
def test_it_is_the_formula(act: str) -> None:
    layer, x = MLP(6, 24, act), torch.randn(2, 5, 6)
    inner = getattr(F, act)(x @ layer.up.weight.T + layer.up.bias)
    close(layer(x), inner @ layer.down.weight.T + layer.down.bias)


def test_an_image_is_refused() -> None:
    with pytest.raises(Mismatch, match="needs seq or vec"):
        OP.shape(image(3, 4, 5), mult=2.0, act="gelu", bias=True)
