"""Taylor attention: near softmax for small logits, the mean for none, one denominator."""

import pytest
import torch

from ops.attention.approx import ApproximateAttention
from ops.spec import seq
from tests.ops.attention.plain import data, plain, values
from tests.ops.case import Case, close

OP_NAME = "approx_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "causal": True}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "pos": "rope"}),
    Case(seq(21, 12), {"heads": 2, "causal": True, "pos": "rope"}),
]


def test_without_queries_it_is_the_causal_mean() -> None:
    layer = ApproximateAttention(12, 3, causal=True).double()
    torch.nn.init.zeros_(layer.q.weight)
    mean = values(layer, data()).cumsum(1) / torch.arange(1, 22)[:, None]
    close(layer(data()), layer.out(mean))


@pytest.mark.parametrize("size", [1e-1, 1e-2])
def test_the_error_against_softmax_is_of_third_order(size: float) -> None:
    layer = ApproximateAttention(12, 3, causal=True).double()
    with torch.no_grad():
        layer.q.weight.mul_(size)
    gap = (layer(data()) - plain(layer)(data())).abs().max()
    assert gap < 2 * size**3
    assert gap > 1e-3 * size**3


def test_features_make_the_polynomial() -> None:
    layer = ApproximateAttention(12, 3).double()
    q, k = torch.randn(2, 1, 3, 5, 4, dtype=torch.float64)
    z = q @ k.mT / 2
    close(layer.features(q) @ layer.features(k).mT, 1 + z + z.square() / 2)


def test_weights_are_positive_and_sum_to_one() -> None:
    weights = ApproximateAttention(12, 3).weigh(5 * torch.randn(2, 3, 7, 7), None)
    assert (weights > 0).all()
    close(weights.sum(-1), torch.ones(2, 3, 7))
