"""Convolved relative attention: either part off gives the other op."""

import pytest
import torch
from torch import nn

from ops.attention.mdha import ConvolvedAttention
from ops.attention.rcmha import OP, RelativeConvAttention
from ops.attention.rmha import RelativeAttention
from ops.spec import Mismatch, seq
from tests.ops.attention.plain import data, plain
from tests.ops.attention.test_rmha import randomised
from tests.ops.case import Case, close, complete

OP_NAME = "rcmha"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "causal": True, "reach": 256}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "reach": 32, "kernel": 2}),
    Case(seq(21, 12), {"heads": 3, "form": "sinusoid", "causal": True}, flops="analytic"),
]


@pytest.mark.parametrize("causal", [False, True])
def test_without_relative_terms_it_is_mdha(causal: bool) -> None:
    layer = RelativeConvAttention(12, 3, causal, reach=32).double()
    other = ConvolvedAttention(12, 3, causal).double()
    other.load_state_dict(layer.state_dict(), strict=False)
    close(layer(data()), other(data()))


@pytest.mark.parametrize("causal", [False, True])
def test_with_an_identity_convolution_it_is_rmha(causal: bool) -> None:
    layer = RelativeConvAttention(12, 3, causal, reach=32).double()
    randomised(layer)
    nn.init.zeros_(layer.conv.weight)
    nn.init.zeros_(layer.conv.bias)
    nn.init.ones_(layer.conv.weight[:, :, layer.conv.before])
    other = RelativeAttention(12, 3, causal, reach=32).double()
    other.load_state_dict(layer.state_dict(), strict=False)
    close(layer(data()), other(data()))


def test_kernel_1_and_no_terms_is_plain() -> None:
    layer = RelativeConvAttention(12, 3, True, kernel=1, reach=32).double()
    close(layer(data()), plain(layer)(data()))


def test_a_shifted_sequence_gives_shifted_outputs() -> None:
    layer = RelativeConvAttention(12, 3, True, reach=64).double()
    randomised(layer)
    late = torch.cat([torch.ones(2, 10, 12).double(), data()], dim=1)
    mask = (torch.arange(31) >= 10).expand(2, 31)
    close(layer(late, mask)[:, 10:], layer(data()))


def test_a_sequence_beyond_the_reach_is_refused() -> None:
    with pytest.raises(Mismatch, match="shorter than the sequence"):
        OP.shape(seq(40, 12), **complete(OP, {"heads": 3, "reach": 39}))
