"""Group norm: PyTorch's own on images, its two ends, and groups that do not divide."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ops.norm.group import OP, GroupNorm
from ops.spec import Mismatch, image, seq, vec
from tests.ops.case import Case, close

OP_NAME = "group_norm"
CASES = [
    Case(seq(9, 6, may_pad=True), {"groups": 3}),
    Case(vec(8), {"groups": 2, "eps": 1e-3}),
    Case(image(6, 4, 5), {"groups": 2}),
]


def test_of_an_image_it_is_that_of_pytorch() -> None:
    layer, peer = GroupNorm(6, 2), nn.GroupNorm(2, 6)
    nn.init.normal_(layer.weight)
    peer.load_state_dict(layer.state_dict())
    x = torch.randn(2, 6, 4, 5)
    close(layer(x), peer(x))


def test_one_group_is_layer_norm_of_each_token() -> None:
    x = torch.randn(2, 9, 6)
    close(GroupNorm(6, 1)(x), F.layer_norm(x, (6,)))


def test_heads_are_normalised_each_by_itself() -> None:
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    changed = x.clone()
    changed[..., 3:] = torch.randn(2, 9, 3)
    layer = GroupNorm(6, 2).double()
    close(layer(changed)[..., :3], layer(x)[..., :3])


def test_a_constant_row_is_finite() -> None:
    assert GroupNorm(6, 2)(torch.full((1, 3, 6), 5.0)).abs().max() < 1e-3


def test_groups_must_divide_the_width() -> None:
    with pytest.raises(Mismatch, match="groups=4 does not divide dim=6") as found:
        OP.shape(seq(9, 6), groups=4, eps=1e-5)
    assert found.value.hint == "groups may be 1, 2, 3, 6 here"
