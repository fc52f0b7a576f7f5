"""Non-approximate attention: prefix pools, proportional rows, extreme scores."""

import torch

from ops.attention.engine import split_heads
from ops.attention.nonapprox import NonApproximateAttention
from ops.spec import seq
from tests.ops.attention.plain import data
from tests.ops.case import Case, close

OP_NAME = "nonapprox_attn"
CASES = [
    Case(seq(163, 12, may_pad=True), {"heads": 3, "causal": True}),
    Case(seq(21, 12, may_pad=True), {"heads": 3}),
    Case(seq(9, 10), {"heads": 5, "causal": True}),
]


def test_it_is_the_direct_form_whose_rows_are_proportional() -> None:
    layer = NonApproximateAttention(12, 3, causal=True).double()
    x = data(150)
    e, v = layer.project(x)
    weights = e[:, :, None].exp().expand(-1, -1, 150, -1).tril()
    o = weights / weights.sum(-1, keepdim=True) @ v
    close(layer(x), layer.out(o.transpose(1, 2).flatten(2)))
    q, k = (
        split_heads(torch.nn.functional.silu(layer.q(x)), 3),
        split_heads(layer.kv(x)[..., :12], 3),
    )
    close(e, (q * k).sum(-1) / 2)


def test_without_queries_it_is_the_causal_mean() -> None:
    layer = NonApproximateAttention(12, 3, causal=True).double()
    torch.nn.init.zeros_(layer.q.weight)
    v = layer.kv(data())[..., 12:]
    close(layer(data()), layer.out(v.cumsum(1) / torch.arange(1, 22)[:, None]))


def test_every_token_gets_the_same_pool_if_not_causal() -> None:
    layer, causal = NonApproximateAttention(12, 3), NonApproximateAttention(12, 3, causal=True)
    causal.load_state_dict(layer.state_dict())
    y = layer.double()(data())
    close(y, y[:, :1].expand_as(y))
    close(y[:, 0], causal.double()(data())[:, -1])


def test_scores_beyond_a_thousand_stay_finite() -> None:
    layer = NonApproximateAttention(12, 3, causal=True)
    x = (100 * data().float()).requires_grad_()
    e, _ = layer.project(x)
    assert e.abs().max() > 1000
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
