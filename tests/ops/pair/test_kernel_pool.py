"""Kernel pooling: the centres, one exact match, and pairs that are not real."""

import math

import pytest
import torch

from ops.pair.kernel_pool import OP, KernelPool
from ops.spec import Mismatch, image
from tests.ops.case import Case, close

OP_NAME = "kernel_pool"
CASES = [Case(image(1, 5, 7)), Case(image(2, 5, 7), {"kernels": 4, "sigma": 0.3})]


def test_eleven_kernels_are_the_published_ones() -> None:
    layer = KernelPool(11, 0.1, 1e-3)
    mu, sigma = layer.bells(torch.zeros(()))
    close(mu, torch.tensor([-0.9 + 0.2 * k for k in range(10)] + [1.0]))
    close(sigma, torch.tensor([0.1] * 10 + [1e-3]))


def test_the_exact_kernel_counts_terms() -> None:
    x = torch.zeros(1, 1, 2, 9)
    x[0, 0, 0, :3], x[0, 0, 1, :1] = 1.0, 1.0
    y = KernelPool(11, 0.1, 1e-3)(x)
    close(y[0, -1], torch.tensor(math.log(4) + math.log(2)))


def test_a_match_at_the_centre_counts_one() -> None:
    x = torch.full((1, 1, 1, 1), -0.5)
    close(KernelPool(3, 0.1, 1e-3)(x)[0, 0], torch.tensor(math.log(2)))


def test_pairs_that_are_not_real_add_nothing() -> None:
    x = torch.rand(2, 1, 5, 7)
    real = torch.zeros(2, 1, 5, 7)
    real[:, :, :3, :4] = 1.0
    layer = KernelPool(11, 0.1, 1e-3)
    close(layer(torch.cat([x, real], 1)), layer(x[:, :, :3, :4]))


def test_many_channels_are_refused() -> None:
    with pytest.raises(Mismatch, match="one score a pair"):
        OP.shape(image(3, 5, 7), kernels=11, sigma=0.1, exact=1e-3)
