"""Convolution over tokens: against PyTorch's own, and its limits."""

import pytest
import torch
from torch.nn import functional as F

from ops.conv.conv1d import OP, Conv1d
from ops.spec import Mismatch, seq
from tests.ops.case import Case, bench, close

OP_NAME = "conv1d"
CASES = [
    Case(seq(13, 6), {"dim": 8, "kernel": 4, "causal": True}),
    Case(seq(13, 6, may_pad=True), {"dim": 6, "kernel": 3, "causal": True, "depthwise": True}),
    Case(seq(13, 6, may_pad=True), {"dim": 4, "kernel": 5, "groups": 2}),
    Case(seq(13, 6), {"dim": 4, "kernel": 8, "stride": 2, "bias": False}),
    Case(seq(3, 6), {"dim": 4, "kernel": 7}),
    Case(seq(9, 6), {"dim": 4, "kernel": 1}),
    Case(seq(9, 6), {"dim": 4, "kernel": 3, "stride": 2, "causal": True}),
]


def params(**given: object) -> dict[str, object]:
    return bench("conv1d", Case(seq(9, 6), given)).params


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_an_odd_kernel_is_padded_by_half_of_it(kernel: int) -> None:
    layer, x = Conv1d(6, 4, kernel, stride=2), torch.randn(2, 13, 6)
    expected = F.conv1d(x.mT, layer.weight, layer.bias, 2, kernel // 2).mT
    close(layer(x), expected)


def test_the_last_weight_belongs_to_the_current_token() -> None:
    layer = Conv1d(6, 6, 4, groups=6, causal=True, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(6, 1, 4))
    x = torch.randn(2, 9, 6)
    close(layer(x), x)


def test_padded_tokens_count_as_zeros() -> None:
    layer, x = Conv1d(6, 4, 5), torch.randn(1, 9, 6)
    mask = torch.arange(9)[None] < 6
    close(layer(x, mask)[:, :6], layer(x[:, :6]))


def test_a_stride_moves_the_token_axis_so_it_is_not_causal() -> None:
    assert not OP.is_causal(seq(9, 6), **params(dim=4, causal=True, stride=2))
    assert OP.is_causal(seq(9, 6), **params(dim=4, causal=True))
    assert OP.is_causal(seq(9, 6), **params(dim=4, kernel=1))


def test_what_does_not_fit_is_refused_with_a_way_out() -> None:
    with pytest.raises(Mismatch, match="groups=4 does not divide") as found:
        OP.shape(seq(9, 6), **params(dim=4, groups=4))
    assert found.value.hint == "groups may be 1, 2 here"
    with pytest.raises(Mismatch, match="dim=4 is not 6"):
        OP.shape(seq(9, 6), **params(dim=4, depthwise=True))
    with pytest.raises(Mismatch, match="exclude"):
        OP.shape(seq(9, 6), **params(dim=6, depthwise=True, groups=2))
    with pytest.raises(Mismatch, match="stride=2"):
        OP.shape(seq(9, 6, may_pad=True), **params(dim=4, stride=2))
