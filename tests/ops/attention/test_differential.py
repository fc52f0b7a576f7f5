"""Differential attention: without lambda plain attention, with equal maps a share of it."""

import math

import pytest
import torch
from torch import Tensor

from ops.attention.differential import OP, DifferentialAttention
from ops.attention.engine import split_heads
from ops.spec import Mismatch, seq
from tests.ops.attention.plain import data
from tests.ops.case import Case, close, complete

OP_NAME = "diff_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "causal": True}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "pos": "rope"}, layer=3),
    Case(seq(21, 16), {"heads": 2, "causal": True, "pos": "rope"}, layer=1),
]


def unnormed(layer: DifferentialAttention, x: Tensor) -> Tensor:
    """O before the norm, [B, heads, T, 2 K], from first principles."""
    q, k = split_heads(layer.q(x), 6), split_heads(layer.kv(x)[..., :12], 6)
    v = split_heads(layer.kv(x)[..., 12:], 3)
    maps = (q @ k.mT / math.sqrt(2)).softmax(-1)
    return (maps[:, ::2] - layer.share() * maps[:, 1::2]) @ v


def test_it_is_the_formula() -> None:
    layer = DifferentialAttention(12, 3, layer=2).double()
    o = unnormed(layer, data())
    start = 0.8 - 0.6 * math.exp(-0.6)
    o = (1 - start) * o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    close(layer(data()), layer.out(o.transpose(1, 2).flatten(2)))


def test_lambda_starts_as_published() -> None:
    for layer, start in ((0, 0.2), (1, 0.8 - 0.6 * math.exp(-0.3))):
        module = DifferentialAttention(12, 3, layer=layer)
        torch.nn.init.zeros_(module.pairs)
        close(module.share(), torch.tensor(start))


def test_rows_sum_to_one_minus_lambda() -> None:
    layer = DifferentialAttention(12, 3, causal=True).double()
    scores = torch.randn(2, 6, 7, 7, dtype=torch.float64)
    seen = torch.ones(7, 7, dtype=torch.bool).tril()
    sums = layer.weigh(scores, seen).sum(-1)
    close(sums, (1 - layer.share()).expand_as(sums))


def test_equal_maps_leave_a_share_and_no_lambda_leaves_the_first() -> None:
    layer = DifferentialAttention(12, 3).double()
    scores = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    twice = scores.repeat_interleave(2, 1)
    close(layer.weigh(twice, None), (1 - layer.share()) * scores.softmax(-1))
    with torch.no_grad():
        layer.pairs.zero_()
        layer.pairs[1] = math.sqrt(math.log(1.2) / 2)
    other = torch.randn(2, 6, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(layer.share().item(), 0.0, rtol=0, atol=1e-6)
    close(
        layer.weigh(other, None),
        other[:, ::2].softmax(-1) - layer.share() * other[:, 1::2].softmax(-1),
    )


def test_odd_head_widths_are_refused() -> None:
    with pytest.raises(Mismatch, match="not even"):
        OP.shape(seq(9, 9), **complete(OP, {"heads": 3}), layer=0)
    with pytest.raises(Mismatch, match="multiple of 4"):
        OP.shape(seq(9, 12), **complete(OP, {"heads": 2, "pos": "rope"}), layer=0)
