"""Layer norm: mean 0, variance 1, over the channels of each place."""

import torch

from ops.norm.layer import LayerNorm
from ops.spec import image, seq, vec
from tests.ops.case import Case, close

OP_NAME = "layer_norm"
CASES = [Case(seq(9, 12, may_pad=True)), Case(vec(7), {"eps": 1e-3}), Case(image(5, 4, 3))]


def test_shift_and_scale_of_the_input_change_nothing() -> None:
    norm, x = LayerNorm(16, eps=1e-12).double(), torch.randn(2, 5, 16, dtype=torch.float64)
    close(norm(3.0 * x + 7.0), norm(x), scale=1e3)


def test_of_an_image_every_place_is_a_vector() -> None:
    norm, x = LayerNorm(5), torch.randn(2, 5, 4, 3)
    close(norm(x)[:, :, 2, 1], norm(x[:, :, 2, 1]))


def test_a_constant_row_is_finite() -> None:
    norm = LayerNorm(8)
    close(norm(torch.full((2, 8), 3.0)), torch.zeros(2, 8))
