"""Performer: an estimate of softmax attention, causal without overflow, exact in its features."""

import pytest
import torch
from torch.nn import functional as F

from ops.linear.performer import Performer, orthogonal_rows
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "performer"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "causal": True, "features": 7}),
    Case(seq(70, 12, may_pad=True), {"heads": 2, "features": 16}),
    Case(seq(63, 12), {"heads": 3, "causal": True, "kind": "relu", "features": 9}),
    Case(seq(3, 8), {"heads": 1}),
]


def split(layer: Performer, x: torch.Tensor) -> torch.Tensor:
    width = layer.out.in_features // layer.heads
    return layer.qkv(x).unflatten(-1, (3, layer.heads, width)).permute(2, 0, 3, 1, 4)


@pytest.mark.parametrize("causal", [False, True])
def test_it_is_the_average_over_its_features(causal: bool) -> None:
    layer = Performer(12, 3, 10, "softmax", causal, 0).double()
    layer.eps = 0.0
    x = torch.randn(2, 90, 12, dtype=torch.float64)
    q, k, v = split(layer, x)
    phi = [
        torch.exp(z @ layer.rows.T - z.square().sum(-1, True) / 2) for z in (q / 2**0.5, k / 2**0.5)
    ]
    weights = phi[0] @ phi[1].mT
    weights = weights.tril() if causal else weights
    y = weights @ v / weights.sum(-1, keepdim=True)
    close(layer(x), layer.out(y.transpose(1, 2).flatten(2)))


def test_relu_features_are_the_average_too() -> None:
    layer = Performer(12, 3, 10, "relu", True, 0).double()
    x = torch.randn(2, 90, 12, dtype=torch.float64)
    q, k, v = split(layer, x)
    phi = [F.relu(z @ layer.rows.T / 2**0.5) + 1e-3 for z in (q, k)]
    weights = (phi[0] @ phi[1].mT).tril()
    y = weights @ v / weights.sum(-1, keepdim=True)
    close(layer(x), layer.out(y.transpose(1, 2).flatten(2)))


def test_many_features_tend_to_softmax_like_one_over_root_m() -> None:
    torch.manual_seed(1)
    x = 0.5 * torch.randn(2, 30, 12, dtype=torch.float64)  # small: tails of exp(w.x) are heavy
    errors = []
    for features in (64, 4096):
        found = []
        for seed in range(8):
            torch.manual_seed(0)
            layer = Performer(12, 3, features, "softmax", True, seed).double()
            q, k, v = split(layer, x)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            found.append(
                (layer(x) - layer.out(y.transpose(1, 2).flatten(2))).square().mean().sqrt()
            )
        errors.append(torch.stack(found).mean().item())
    assert 4.0 < errors[0] / errors[1] < 16.0  # sqrt(64) = 8


def test_huge_keys_overflow_nowhere_and_later_ones_change_nothing() -> None:
    layer = Performer(12, 3, 8, "softmax", True, 0)
    x = torch.randn(2, 40, 12)
    before = layer(x)
    x[:, 20:] *= 1e3
    x.requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    close(y[:, :20].detach(), before[:, :20].detach())


def test_gradients_are_those_of_the_features() -> None:
    layer = Performer(4, 2, 3, "softmax", True, 0).double()
    layer.eps = 0.0  # the running maximum cancels exactly
    x = torch.randn(1, 9, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_rows_are_orthogonal_in_blocks_with_gaussian_lengths() -> None:
    rows = orthogonal_rows(1000, 8, seed=3).double()
    block = F.normalize(rows[8:16], dim=-1)
    close((block @ block.mT).float(), torch.eye(8))
    assert abs(rows.square().sum(-1).mean() - 8.0) < 0.5
    assert torch.equal(orthogonal_rows(5, 8, seed=3), orthogonal_rows(5, 8, seed=3))
    assert not torch.equal(orthogonal_rows(5, 8, seed=3), orthogonal_rows(5, 8, seed=4))
