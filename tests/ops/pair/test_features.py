"""Pair features: the letters in order, equal sides, swapped sides."""

import pytest
import torch

from einspace.compile import compile_text
from einspace.interface import Interface
from einspace.load import load
from ops.pair.features import OP, PairFeatures
from ops.spec import Mismatch, seq, vec
from tests.ops.case import Case, close

OP_NAME = "pair_features"
CASES = [
    *(Case((vec(5), vec(5)), {"kind": kind}) for kind in ("uv", "uvd", "uvdm", "uvmd", "dm", "d")),
    Case((seq(9, 4), seq(9, 4))),
]


def test_widths_follow_the_letters() -> None:
    for kind, width in (("uv", 10), ("uvd", 15), ("uvdm", 20), ("dm", 10)):
        assert OP.shape(vec(5), vec(5), kind=kind) == vec(width)


def test_equal_sides_differ_by_nothing() -> None:
    u = torch.randn(2, 5)
    assert not PairFeatures("d")(u, u).any()
    close(PairFeatures("m")(u, u), u.square())


def test_swapping_keeps_difference_and_product_and_swaps_the_sides() -> None:
    u, v = torch.randn(2, 2, 5)
    close(PairFeatures("dm")(u, v), PairFeatures("dm")(v, u))
    a, b, m, d = PairFeatures("uvmd")(u, v).chunk(4, -1)
    close(PairFeatures("uvmd")(v, u), torch.cat([b, a, m, d], -1))


def test_unequal_or_missing_sides_are_refused() -> None:
    with pytest.raises(Mismatch, match="differ"):
        OP.shape(vec(5), vec(6), kind="uv")
    with pytest.raises(Mismatch, match="needs two values, got 3"):
        OP.shape(vec(5), vec(5), vec(5), kind="uv")


def test_a_siamese_encoder_in_the_language() -> None:
    text = "let enc = linear(dim=4); fork(@left >> enc, @right >> enc) >> pair_features(kind=uvd)"
    compiled = compile_text(text, Interface({"left": vec(3), "right": vec(3)}))
    model, (u, v) = load(compiled.source)(), torch.randn(2, 2, 3)
    (weights,) = (m for m in model.modules() if type(m).__name__ == "Linear")
    close(model(u, v), PairFeatures("uvd")(weights(u), weights(v)))
