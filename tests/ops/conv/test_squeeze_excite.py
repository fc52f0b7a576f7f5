"""Squeeze-and-excitation: global, and causal by prefix means."""

import pytest
import torch

from ops.conv.squeeze_excite import OP, SqueezeExcite
from ops.spec import Mismatch, image, seq
from tests.ops.case import Case, bench, close

OP_NAME = "squeeze_excite"
CASES = [
    Case(seq(9, 20, may_pad=True), {"ratio": 2, "causal": True}),
    Case(seq(9, 20, may_pad=True), {"ratio": 2}),
    Case(image(6, 4, 5), {"ratio": 4}),
]


def test_a_silent_gate_halves() -> None:
    layer, x = SqueezeExcite(6, 8), torch.randn(2, 9, 6)
    with torch.no_grad():
        layer.up.weight.zero_()
        layer.up.bias.zero_()
    close(layer(x), x / 2)


def test_of_one_token_causal_is_global() -> None:
    layer, x = SqueezeExcite(6, 8), torch.randn(2, 1, 6)
    other = SqueezeExcite(6, 8, causal=True)
    other.load_state_dict(layer.state_dict())
    close(other(x), layer(x))


def test_the_last_prefix_is_the_whole() -> None:
    layer, x = SqueezeExcite(6, 8).double(), torch.randn(2, 9, 6, dtype=torch.float64)
    other = SqueezeExcite(6, 8, causal=True).double()
    other.load_state_dict(layer.state_dict())
    close(other(x)[:, -1], layer(x)[:, -1])


def test_padding_takes_no_part_in_the_mean() -> None:
    layer, x = SqueezeExcite(6, 8), torch.randn(1, 9, 6)
    close(layer(x, torch.arange(9)[None] < 4)[:, :4], layer(x[:, :4]))


def test_at_least_eight_units() -> None:
    assert bench("squeeze_excite", Case(seq(9, 6))).build().down.out_features == 8


def test_causal_needs_an_order() -> None:
    with pytest.raises(Mismatch, match="no order") as found:
        OP.shape(image(6, 4, 5), ratio=4, causal=True)
    assert found.value.param == "causal"
