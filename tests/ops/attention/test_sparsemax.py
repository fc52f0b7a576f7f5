"""Sparsemax: one-hot for a wide gap, uniform for equal scores, exact gradient."""

import torch
from torch.autograd import gradcheck

from ops.attention.sparse_weights import sparsemax_weights
from ops.attention.sparsemax import SparsemaxAttention
from ops.spec import seq
from tests.ops.attention.plain import data, values
from tests.ops.case import Case, close

OP_NAME = "sparsemax_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "causal": True}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "pos": "alibi"}),
    Case(seq(21, 12), {"heads": 1, "causal": True, "pos": "rope"}),
]


def test_a_gap_above_one_is_one_hot_and_equal_scores_are_uniform() -> None:
    z = torch.tensor([[0.0, 3.0, 1.9, -5.0], [7.0] * 4])
    close(sparsemax_weights(z, None), torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.25] * 4]))


def test_it_is_the_projection_onto_the_simplex() -> None:
    torch.manual_seed(0)
    z = torch.randn(6, dtype=torch.float64)
    p = sparsemax_weights(z, None)
    for _ in range(50):
        other = torch.rand(6, dtype=torch.float64)
        other = 0.5 * p + 0.5 * other / other.sum()
        assert (p - z).norm() <= (other - z).norm()


def test_gradcheck_with_masked_keys() -> None:
    torch.manual_seed(3)
    z = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    seen = torch.ones(3, 7, dtype=torch.bool).tril(4)
    assert gradcheck(lambda s: sparsemax_weights(s, seen), (z,))


def test_a_row_without_keys_is_zero() -> None:
    z = torch.randn(1, 4, requires_grad=True)
    p = sparsemax_weights(z, torch.zeros(1, 4, dtype=torch.bool))
    p.sum().backward()
    assert not p.any()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_equal_logits_pool_the_prefix() -> None:
    layer = SparsemaxAttention(12, 3, causal=True).double()
    torch.nn.init.zeros_(layer.q.weight)
    v = values(layer, data())
    mean = v.cumsum(1) / torch.arange(1, 22)[:, None]
    close(layer(data()), layer.out(mean))
