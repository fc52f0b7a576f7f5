"""Token mixing: linear in the channel axis' order, and the widths of the paper."""

import torch

from ops.linear.mixer import OP, TokenMixer
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "mixer"
CASES = [
    Case(seq(13, 10)),
    Case(seq(9, 6), {"hidden": 7}),
    Case(seq(1, 1)),
]


def test_channels_share_the_weights() -> None:
    layer = TokenMixer(9, 4)
    x, order = torch.randn(2, 9, 6), torch.randperm(6)
    close(layer(x[..., order]), layer(x)[..., order])


def test_hidden_is_half_the_width_as_in_all_models_of_the_paper() -> None:
    assert OP.init(seq(196, 512), hidden=None) == {"length": 196, "hidden": 256}
