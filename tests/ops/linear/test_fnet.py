"""Fourier mixing: the matrix form, the flip that two transforms make, padding counted."""

import math

import torch

from ops.linear.fnet import FourierMixer
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "fnet"
CASES = [Case(seq(63, 12, may_pad=True)), Case(seq(21, 5)), Case(seq(1, 1))]


def cosine_and_sine(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    place = torch.arange(size, dtype=torch.float64)
    angle = 2 * math.pi * place[:, None] * place / size
    return angle.cos(), angle.sin()


def test_it_is_the_matrix_form() -> None:
    x = torch.randn(2, 21, 6, dtype=torch.float64)
    (c_t, s_t), (c_d, s_d) = cosine_and_sine(21), cosine_and_sine(6)
    close(FourierMixer()(x), c_t @ x @ c_d - s_t @ x @ s_d)


def test_zeros_behind_the_end_change_the_result() -> None:
    x = torch.randn(1, 8, 4, dtype=torch.float64)
    longer = torch.nn.functional.pad(x, (0, 0, 0, 3))
    assert not torch.allclose(FourierMixer()(longer)[:, :8], FourierMixer()(x))


def test_gradient_is_exact() -> None:
    x = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(FourierMixer(), (x,))
