"""LAMA: the full bilinear form, its limits, padding, and the single head."""

import math

import pytest
import torch

from ops.pool.attn import pool_weights
from ops.pool.lama import OP, LamaPool
from ops.spec import Mismatch, seq
from tests.ops.case import Case, bench, close

OP_NAME = "lama_pool"
CASES = [
    Case(seq(9, 6, may_pad=True), {"heads": 3}),
    Case(seq(7, 5, may_pad=True), {"heads": 2, "rank": 3, "context": "last", "dim": 4}),
    Case(seq(7, 5), {"heads": 1, "norm": False, "act": "none", "context": "learned"}),
]
X = torch.randn(2, 9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rank", [1, 3])
def test_the_factors_are_an_explicit_bilinear_form(rank: int) -> None:
    layer = LamaPool(6, 4, rank=rank, act="none", norm=False).double()
    w = torch.einsum("hrd,hre->hde", layer.q.view(4, rank, 6), layer.p.view(4, rank, 6))
    close(layer.logits(X), torch.einsum("btd,hde,be->bht", X, w, X.mean(1)))


def test_full_rank_reproduces_any_bilinear_form() -> None:
    w = torch.randn(3, 6, 6, dtype=torch.float64)
    u, s, v = torch.linalg.svd(w)
    layer = LamaPool(6, 3, rank=6, act="none", norm=False).double()
    with torch.no_grad():
        layer.q.copy_((u * s[:, None]).mT.flatten(0, 1))
        layer.p.copy_(v.flatten(0, 1))
    close(layer.logits(X), torch.einsum("btd,hde,be->bht", X, w, X.mean(1)))


def test_without_p_attention_is_uniform() -> None:
    layer = LamaPool(6, 4).double()
    with torch.no_grad():
        layer.p.zero_()
    mask = (torch.arange(9) < 5).expand(2, 9)
    close(layer(X, mask), X[:, :5].mean(1).repeat(1, 4))
    layer(X).sum().backward()
    assert layer.q.grad is not None
    assert layer.q.grad.isfinite().all()


def test_one_head_has_two_levels_and_is_refused() -> None:
    close(LamaPool(6, 1).double().logits(X).abs(), torch.ones(2, 1, 9, dtype=torch.float64))
    with pytest.raises(Mismatch, match="heads=1") as found:
        OP.shape(seq(9, 6), **(bench("lama_pool", Case(seq(9, 6))).params | {"heads": 1}))
    assert "norm=false" in found.value.hint


def test_order_changes_nothing_and_neither_does_padding() -> None:
    layer = LamaPool(6, 4).double()
    close(layer(X.flip(1)), layer(X))
    mask = (torch.arange(9) < 5).expand(2, 9)
    close(layer(X, mask), layer(X[:, :5]))


def test_weights_sum_to_one_and_logits_lie_on_the_unit_sphere() -> None:
    logits = LamaPool(6, 4).double().logits(X)
    close(logits.norm(dim=1), torch.ones(2, 9, dtype=torch.float64))
    weights = pool_weights(logits, None)
    close(weights.sum(-1), torch.ones(2, 4, dtype=torch.float64))
    assert weights.max() <= math.e**2 / (math.e**2 + 8)


def test_a_learned_context_without_bends_is_attention_with_fixed_queries() -> None:
    layer = LamaPool(6, 4, context="learned", act="none", norm=False).double()
    assert layer.c is not None
    queries = layer.q * (layer.p @ layer.c)[:, None]
    close(layer(X), ((queries @ X.mT).softmax(-1) @ X).flatten(1))


def test_padding_of_zeros_is_finite() -> None:
    layer, x = LamaPool(6, 4), torch.zeros(1, 9, 6, requires_grad=True)
    layer(x, torch.arange(9)[None] < 5).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
