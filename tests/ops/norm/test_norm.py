"""Norm: PyTorch's batch norm on images and layer norm elsewhere, by the input alone."""

import pytest
import torch
from torch import nn

from ops.norm.norm import OP, Norm
from ops.spec import Mismatch, image, seq, tokens, vec
from tests.ops.case import Case, close

OP_NAME = "norm"
CASES = [Case(image(5, 4, 3)), Case(seq(9, 6)), Case(seq(9, 6, may_pad=True)), Case(vec(7))]


def test_the_mode_follows_the_input() -> None:
    assert OP.init(image(5, 4, 3)) == {"dim": 5, "batch": True}
    assert OP.init(seq(9, 6)) == {"dim": 6, "batch": False}
    with pytest.raises(Mismatch, match="needs image"):
        OP.shape(tokens(5, 8))


def test_on_images_three_steps_are_those_of_pytorch() -> None:
    layer, other = Norm(6, batch=True).double(), nn.BatchNorm2d(6).double()
    torch.manual_seed(0)
    for x in torch.randn(3, 4, 6, 5, 3, dtype=torch.float64) * 2 + 1:
        y, stats = layer(x)
        layer.update(stats)
        close(y, other(x))
    close(layer.running_mean, other.running_mean)
    close(layer.running_var, other.running_var)
    close(layer.eval()(x)[0], other.eval()(x))


@pytest.mark.parametrize("shape", [(4, 9, 6), (4, 6)])
def test_elsewhere_each_vector_is_normalised_alone(shape: tuple[int, ...]) -> None:
    layer, other = Norm(6).double(), nn.LayerNorm(6).double()
    x = torch.randn(*shape, dtype=torch.float64)
    y, stats = layer(x)
    assert stats == ()
    assert not list(layer.named_buffers())
    close(y, other(x))
    layer.update(stats)
    close(layer(x)[0], other(x))


def test_one_value_per_channel_uses_the_running_statistics() -> None:
    layer, x = Norm(6, batch=True), torch.randn(1, 6, 1, 1)
    close(layer(x)[0], x / (1 + 1e-5) ** 0.5)
