"""Convolution mixer: the filter written out, the identity filter, and the reach."""

import torch
from torch.nn import functional as F

from ops.conv.mixer import ConvMixer
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "conv_mixer"
CASES = [
    Case(seq(63, 6, may_pad=True)),
    Case(seq(5, 4), {"kernel": 7}),
    Case(seq(9, 3), {"kernel": 1}),
]


def test_it_is_the_sum_over_taps() -> None:
    layer = ConvMixer(5, kernel=3).double()
    x = torch.randn(2, 11, 5, dtype=torch.float64)
    y = torch.zeros_like(x)
    for r in range(3):
        y[:, r:] += layer.conv.weight[:, 0, 2 - r] * x[:, : 11 - r]
    close(layer(x), layer.out(F.silu(y)))


def test_the_last_tap_alone_is_the_token_itself() -> None:
    layer = ConvMixer(5, kernel=4).double()
    with torch.no_grad():
        layer.conv.weight.zero_()
        layer.conv.weight[:, 0, 3] = 1.0
    x = torch.randn(2, 11, 5, dtype=torch.float64)
    close(layer(x), layer.out(F.silu(x)))


def test_it_reaches_kernel_tokens() -> None:
    x = torch.randn(1, 12, 5, requires_grad=True)
    ConvMixer(5, kernel=4)(x)[:, 10].sum().backward()
    assert x.grad is not None
    assert x.grad.ne(0).any(-1)[0].nonzero().flatten().tolist() == [7, 8, 9, 10]
