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
    Case(seq(13, 6), {"dim": 4, "kernel": 4, "dilation": 3, "causal": True, "groups": 2}),
    Case(seq(13, 6, may_pad=True), {"dim": 4, "kernel": 3, "dilation": 2}),
    Case(seq(13, 6, may_pad=True), {"dim": 4, "kernel": 3, "transposed": True}),
    Case(
        seq(13, 6),
        {"dim": 4, "kernel": 4, "groups": 2, "dilation": 2, "causal": True, "transposed": True},
    ),
    Case(seq(7, 6), {"dim": 6, "kernel": 5, "stride": 3, "depthwise": True, "transposed": True}),
    Case(seq(7, 6), {"dim": 4, "kernel": 2, "stride": 4, "transposed": True}),
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


def test_dilated_taps_lie_apart() -> None:
    layer, x = Conv1d(6, 4, 3, causal=True, dilation=5).double(), torch.randn(2, 13, 6).double()
    padded = F.pad(x, (0, 0, 10, 0))
    taps = [padded[:, 5 * r : 5 * r + 13] @ layer.weight[..., r].T for r in range(3)]
    assert layer.bias is not None
    close(layer(x), torch.stack(taps).sum(0) + layer.bias)


@pytest.mark.parametrize("causal", [False, True])
def test_a_wide_kernel_of_zeros_between_is_the_dilated_one(causal: bool) -> None:
    thin, wide = Conv1d(6, 4, 3, 2, 2, causal, dilation=4), Conv1d(6, 4, 9, 2, 2, causal)
    with torch.no_grad():
        wide.weight.zero_()
        wide.weight[..., ::4] = thin.weight
        for a, b in ((wide.bias, thin.bias),):
            assert a is not None
            assert b is not None
            a.copy_(b)
    x = torch.randn(2, 13, 6)
    close(thin(x), wide(x))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 2, 5])
@pytest.mark.parametrize("dilation", [1, 3])
def test_transposed_is_the_transpose_of_the_convolution(
    stride: int, kernel: int, dilation: int
) -> None:
    ahead = Conv1d(6, 4, kernel, stride, 2, bias=False, dilation=dilation).double()
    back = Conv1d(4, 6, kernel, stride, 2, bias=False, dilation=dilation, transposed=True).double()
    back.load_state_dict(ahead.state_dict())
    x = torch.randn(2, 4 * stride, 6, dtype=torch.float64)
    y = torch.randn(2, 4, 4, dtype=torch.float64)
    close((ahead(x) * y).sum(), (x * back(y)).sum())


def test_transposed_by_the_kernel_s_own_stride_repeats_every_token() -> None:
    layer, x = Conv1d(6, 6, 3, 3, 6, bias=False, causal=True, transposed=True), torch.randn(2, 5, 6)
    torch.nn.init.ones_(layer.weight)
    close(layer(x), x.repeat_interleave(3, 1))


def test_beyond_the_taps_there_is_the_bias() -> None:
    layer, x = Conv1d(6, 4, 1, 3, transposed=True), torch.randn(2, 5, 6)
    assert layer.bias is not None
    close(layer(x)[:, 2::3], layer.bias.expand(2, 5, 4))


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
