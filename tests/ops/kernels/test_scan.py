"""The scans against loops, the algebra of the union, and gradients."""

import pytest
import torch
from torch import Tensor

from ops.kernels.scan import linear_scan, prefix_softmax, relu_scan, softmax_union
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


def relu_loop(u: Tensor, w: Tensor) -> Tensor:
    h, rows = torch.zeros_like(w[:, 0]), []
    for t in range(w.shape[1]):
        h = (w[:, t] + u * h).relu()
        rows.append(h)
    return torch.stack(rows, 1)


@pytest.mark.parametrize("length", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_relu_scan_equals_the_loop_for_slopes_of_either_sign(
    length: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    u = torch.tensor([0.0, 0.9, -0.9, 1.001, -1.3, 0.3], dtype=dtype)
    w = torch.randn(3, length, 6, dtype=dtype)
    close(relu_scan(u, w), relu_loop(u, w), scale=10)


def test_relu_scan_of_a_slope_that_explodes_is_finite_where_the_loop_is() -> None:
    u, w = torch.tensor([3.0, -4.0]), torch.full((1, 900, 2), -1.0)
    w[:, 890:] = 1.0
    close(relu_scan(u, w), relu_loop(u, w))


def test_relu_scan_gradient() -> None:
    torch.manual_seed(0)
    u = torch.tensor([0.8, -0.7, 1.1], dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 9, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(relu_scan, (u, w))
    ours = torch.autograd.grad(relu_scan(u, w).square().sum(), (u, w))
    loop = torch.autograd.grad(relu_loop(u, w).square().sum(), (u, w))
    close(tuple(ours), tuple(loop))


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
