"""Attention pooling: equal scores, one dominant token, padding, and its hops."""

import torch

from ops.pool.attn import AttentionPool
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "attn_pool"
CASES = [
    Case(seq(9, 6, may_pad=True)),
    Case(seq(7, 5, may_pad=True), {"hidden": 3, "hops": 4, "bias": False}),
]


def test_equal_scores_give_the_mean() -> None:
    layer, x = AttentionPool(6, 4, hops=2), torch.randn(2, 9, 6)
    with torch.no_grad():
        layer.query.weight.zero_()
    close(layer(x), x.mean(1).repeat(1, 2))


def test_a_dominant_token_is_the_result() -> None:
    layer, x = AttentionPool(6, 6), torch.zeros(1, 9, 6)
    with torch.no_grad():
        layer.enter.weight.copy_(torch.eye(6))
        layer.enter.bias.zero_()
        layer.query.weight.fill_(1e3)
    x[:, 4] = 1.0
    close(layer(x), x[:, 4])


def test_order_and_appended_padding_change_nothing() -> None:
    layer, x = AttentionPool(6, 4, hops=3).double(), torch.randn(2, 9, 6, dtype=torch.float64)
    mask = (torch.arange(9) < 5).expand(2, 9)
    close(layer(x, mask), layer(x[:, :5].flip(1)))


def test_padding_alone_gives_zero() -> None:
    assert not AttentionPool(6, 4)(torch.randn(1, 9, 6), torch.zeros(1, 9, dtype=torch.bool)).any()
