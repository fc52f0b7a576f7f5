"""L2 norm: length one, direction kept, and the zero vector."""

import torch

from ops.norm.l2 import L2Norm
from ops.spec import image, seq, vec
from tests.ops.case import Case, close

OP_NAME = "l2norm"
CASES = [Case(seq(9, 6, may_pad=True)), Case(vec(5), {"eps": 1e-3}), Case(image(3, 4, 5))]


def test_every_vector_has_length_one_and_its_direction() -> None:
    x = torch.randn(2, 9, 6)
    y = L2Norm()(x)
    close(y.norm(dim=-1), torch.ones(2, 9))
    close(y * x.norm(dim=-1, keepdim=True), x)


def test_its_scale_does_not_matter() -> None:
    x = torch.randn(2, 6)
    close(L2Norm()(x * 1e3), L2Norm()(x))


def test_zero_stays_zero_with_a_finite_gradient() -> None:
    x = torch.zeros(1, 6, requires_grad=True)
    y = L2Norm(1e-6)(x)
    y.sum().backward()
    assert not y.any()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_of_an_image_it_is_over_channels() -> None:
    close(L2Norm(axis=1)(torch.randn(2, 3, 4, 5)).norm(dim=1), torch.ones(2, 4, 5))
