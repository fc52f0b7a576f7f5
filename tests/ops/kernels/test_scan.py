"""The scans against loops, the algebra of the union, and gradients."""

import pytest
import torch
from torch import Tensor

from ops.kernels.scan import linear_scan, prefix_softmax, softmax_union
from tests.ops.case import close


@pytest.mark.parametrize("length", [1, 2, 7, 64, 4096])
def test_linear_scan_equals_the_loop(length: int) -> None:
    torch.manual_seed(0)
    a, b = torch.rand(2, length, 3), torch.rand(2, length, 3)
    h, rows = torch.zeros(2, 3), []
    for t in range(length):
        h = a[:, t] * h + b[:, t]
        rows.append(h)
    close(linear_scan(a, b), torch.stack(rows, 1))


def test_linear_scan_gradient() -> None:
    torch.manual_seed(0)
    a, b = torch.rand(2, 1, 11, 2, dtype=torch.float64).unbind(0)
    assert torch.autograd.gradcheck(linear_scan, (a.requires_grad_(), b.requires_grad_()))


def triples() -> list[tuple[Tensor, Tensor, Tensor]]:
    torch.manual_seed(0)
    return [(10 * torch.randn(50), torch.rand(50) + 1, torch.randn(50, 4)) for _ in range(3)]


def test_union_is_associative_and_commutative() -> None:
    a, b, c = triples()
    close(softmax_union(softmax_union(a, b), c), softmax_union(a, softmax_union(b, c)))
    close(softmax_union(a, b), softmax_union(b, a))


def test_union_has_an_identity() -> None:
    (a, *_) = triples()
    lowest = torch.full_like(a[0], torch.finfo(torch.float32).min)
    none = (lowest, torch.zeros_like(a[1]), torch.zeros_like(a[2]))
    close(softmax_union(none, a), a)
    assert all(torch.isfinite(part).all() for part in softmax_union(none, none))


def masked_softmax(s: Tensor, v: Tensor) -> Tensor:
    later = torch.ones(s.shape[-1], s.shape[-1], dtype=torch.bool).triu(1)
    logits = s[..., None, :].expand(*s.shape, s.shape[-1]).masked_fill(later, float("-inf"))
    return logits.softmax(-1) @ v


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_prefix_softmax_equals_masked_softmax(chunk: int) -> None:
    torch.manual_seed(0)
    s, v = 3 * torch.randn(2, 3, 63).double(), torch.randn(2, 3, 63, 4).double()
    close(prefix_softmax(s, v, chunk), masked_softmax(s, v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_far_apart_stay_finite(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    s, v = 1e4 * torch.randn(1, 2, 63), torch.randn(1, 2, 63, 4).to(dtype)
    y = prefix_softmax(s.requires_grad_(), v, chunk=16)
    close(y, masked_softmax(s.double(), v.double()).to(dtype))
    y.float().sum().backward()
    assert s.grad is not None
    assert s.grad.isfinite().all()


def test_a_prefix_without_tokens_gives_zero_and_a_finite_gradient() -> None:
    s = torch.randn(1, 2, 20)
    s[..., :9] = float("-inf")
    v = torch.randn(1, 2, 20, 4, requires_grad=True)
    y = prefix_softmax(s.requires_grad_(), v, chunk=4)
    assert not y[:, :, :9].any()
    y.sum().backward()
    assert s.grad is not None
    assert s.grad.isfinite().all()
    assert v.grad is not None
    assert v.grad.isfinite().all()


def test_prefix_softmax_gradient() -> None:
    torch.manual_seed(0)
    s = torch.randn(1, 2, 9, dtype=torch.float64, requires_grad=True)
    v = torch.randn(1, 2, 9, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, v: prefix_softmax(s, v, 4), (s, v))
