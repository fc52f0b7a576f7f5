"""Convolution over an image: against PyTorch's own, and its limits."""

import pytest
import torch
from torch import nn

from ops.conv.conv2d import OP, Conv2d
from ops.spec import Mismatch, image
from tests.ops.case import Case, bench, close

OP_NAME = "conv2d"
CASES = [
    Case(image(4, 7, 5), {"dim": 6}),
    Case(image(4, 7, 6), {"dim": 6, "kernel": 5, "stride": 2, "groups": 2}),
    Case(image(4, 7, 6), {"dim": 4, "depthwise": True, "bias": False}),
    Case(image(4, 1, 1), {"dim": 3, "kernel": 7, "stride": 3}),
    Case(image(4, 7, 6), {"dim": 3, "kernel": 4, "stride": 2}),
]


def test_it_is_the_convolution_of_pytorch() -> None:
    layer, x = Conv2d(4, 6, kernel=5, stride=2, groups=2), torch.randn(2, 4, 9, 8)
    reference = nn.Conv2d(4, 6, 5, stride=2, padding=2, groups=2)
    reference.load_state_dict(layer.state_dict())
    close(layer(x), reference(x))


def test_depthwise_channels_do_not_mix() -> None:
    case = Case(image(4, 7, 6), {"dim": 4, "depthwise": True})
    layer, x = bench("conv2d", case).build(), torch.randn(2, 4, 7, 6)
    changed = x.clone()
    changed[:, 1:] += 1.0
    close(layer(changed)[:, 0], layer(x)[:, 0])


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_an_odd_kernel_gives_the_ceiling(stride: int) -> None:
    full = bench("conv2d", Case(image(4, 7, 5), {"dim": 6, "kernel": 3, "stride": stride})).params
    assert OP.shape(image(4, 7, 5), **full).shape == (6, -(-7 // stride), -(-5 // stride))


def test_groups_must_divide_both_widths() -> None:
    full = bench("conv2d", Case(image(4, 7, 5), {"dim": 6, "groups": 4})).params
    with pytest.raises(Mismatch, match="groups=4") as found:
        OP.shape(image(4, 7, 5), **full)
    assert found.value.param == "groups"
    assert found.value.hint == "groups may be 1, 2 here"
