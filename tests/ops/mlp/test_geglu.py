"""GeGLU: gate times value, at the published width."""

import pytest
import torch
from torch.nn import functional as F

from ops.mlp.geglu import OP, GeGLU
from ops.spec import Mismatch, image, seq, vec
from tests.ops.case import Case, bench, close

OP_NAME = "geglu"
CASES = [Case(seq(9, 12, may_pad=True)), Case(vec(7), {"mult": 2}), Case(seq(5, 3), {"mult": 0.5})]


def test_it_is_the_formula() -> None:
    layer, x = GeGLU(6, 16).double(), torch.randn(2, 5, 6, dtype=torch.float64)
    gate, up = layer.gate_up.weight.chunk(2)
    close(layer(x), (F.gelu(x @ gate.T) * (x @ up.T)) @ layer.down.weight.T)


def test_without_values_it_gives_zero() -> None:
    layer = GeGLU(6, 16)
    with torch.no_grad():
        layer.gate_up.weight[16:] = 0.0
    assert not layer(torch.randn(2, 5, 6)).any()


@pytest.mark.parametrize(("dim", "hidden"), [(3, 8), (96, 256), (128, 344), (384, 1024)])
def test_the_default_width_is_eight_thirds_rounded_up_to_eights(dim: int, hidden: int) -> None:
    assert bench(OP_NAME, Case(vec(dim))).build().down.in_features == hidden


def test_an_image_is_refused() -> None:
    with pytest.raises(Mismatch, match="needs seq or vec"):
        OP.shape(image(3, 4, 5), mult=2.0)
