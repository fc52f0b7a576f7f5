"""Multi-DConv-head attention: the identity kernel, its reach, padding and the start values."""

import pytest
import torch
from torch import nn

from ops.attention.lags import HeadConv
from ops.attention.mdha import ConvolvedAttention
from ops.spec import seq
from tests.ops.attention.plain import data, plain
from tests.ops.case import Case, close

OP_NAME = "mdha"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "causal": True}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "pos": "alibi", "kernel": 4}),
    Case(seq(21, 12), {"heads": 3, "causal": True, "pos": "rope", "kernel": 1}),
]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_an_identity_kernel_is_plain(causal: bool, kernel: int) -> None:
    layer = ConvolvedAttention(12, 3, causal, "rope", kernel).double()
    nn.init.zeros_(layer.conv.weight)
    nn.init.ones_(layer.conv.weight[:, :, layer.conv.before])
    close(layer(data()), plain(layer)(data()))


def test_the_convolution_is_the_sum_over_lags() -> None:
    conv = HeadConv(12, 3, causal=True).double()
    nn.init.normal_(conv.weight)
    nn.init.normal_(conv.bias)
    x = data()
    for t in (0, 1, 7):
        lags = [conv.weight[:, 0, 2 - r] * x[:, t - r] for r in range(3) if t >= r]
        close(conv(x)[:, t], conv.bias + torch.stack(lags).sum(0))


def test_kernels_start_as_published() -> None:
    weight = HeadConv(4, 3, causal=True).weight[0, 0]
    close(weight, torch.tensor([0.5 / 3, 0.5 / 3, 0.5]))


def test_padding_does_not_leak_through_the_convolution() -> None:
    layer = ConvolvedAttention(12, 3, causal=True).double()
    x = data()
    mask = (torch.arange(21) >= 6).expand(2, 21)
    close(layer(x, mask)[:, 6:], layer(x[:, 6:]))
