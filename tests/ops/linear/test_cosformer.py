"""cosFormer: the cosine-weighted average, its limit without distance, its reach."""

import math

import pytest
import torch

from ops.linear.cosformer import CosFormer
from ops.spec import Mismatch, seq
from tests.ops.case import Case, bench, close

OP_NAME = "cosformer"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "causal": True}),
    Case(seq(90, 12), {"heads": 1, "causal": True, "reach": 300}),
    Case(seq(63, 12, may_pad=True), {"heads": 3}),
]


@pytest.mark.parametrize("causal", [False, True])
def test_it_is_the_cosine_weighted_average(causal: bool) -> None:
    torch.manual_seed(0)
    layer = CosFormer(12, heads=3, reach=90, causal=causal).double()
    x = torch.randn(2, 90, 12, dtype=torch.float64)
    q, k, v = layer.qkv(x).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    age = torch.arange(90)[:, None] - torch.arange(90)
    weights = q.relu() @ k.relu().mT * torch.cos(age.double() * math.pi / 180)
    assert (weights >= -1e-12).all()
    weights = weights.tril() if causal else weights
    y = weights @ v / (weights.sum(-1, keepdim=True) + 1e-6)
    close(layer(x), layer.out(y.transpose(1, 2).flatten(2)))


def test_an_endless_reach_is_relu_linear_attention() -> None:
    layer = CosFormer(12, heads=3, reach=10**9, causal=True).double()
    x = torch.randn(2, 40, 12, dtype=torch.float64)
    q, k, v = layer.qkv(x).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    weights = (q.relu() @ k.relu().mT).tril()
    y = weights @ v / (weights.sum(-1, keepdim=True) + 1e-6)
    close(layer(x), layer.out(y.transpose(1, 2).flatten(2)))


def test_a_reach_below_the_length_is_refused() -> None:
    case = bench(OP_NAME, Case(seq(20, 12), {"heads": 3, "reach": 19}))
    with pytest.raises(Mismatch, match="reach=19 is below the length 20"):
        case.op.shape(*case.case.types, **case.params)
