"""Attention-free transformers: the double sum, their limits, a recurrence for the simple kind."""

import pytest
import torch

from ops.attention.aft import AttentionFree
from ops.spec import seq
from tests.ops.attention.plain import data
from tests.ops.case import Case, close

OP_NAME = "aft"
CASES = [
    Case(seq(63, 12, may_pad=True), {"causal": True, "rank": 4}, flops="analytic"),
    Case(seq(21, 12, may_pad=True), {"kind": "local", "window": 3}, flops="analytic"),
    Case(seq(90, 12, may_pad=True), {"kind": "simple", "causal": True}),
    Case(seq(21, 11, may_pad=True), {"kind": "simple"}),
    Case(seq(21, 11), {"kind": "local", "window": 5, "causal": True}, flops="analytic"),
]


def layer_of(kind: str, causal: bool, window: int = 4) -> AttentionFree:
    torch.manual_seed(0)
    return AttentionFree(12, causal, kind, 8, window, 21).double()


@pytest.mark.parametrize("kind", ["full", "local", "simple"])
@pytest.mark.parametrize("causal", [False, True])
def test_it_is_the_double_sum(kind: str, causal: bool) -> None:
    layer, x = layer_of(kind, causal), data()
    q, k, v = layer.qkv(x).chunk(3, -1)
    w = torch.zeros(21, 21, dtype=torch.float64)
    if kind != "simple":
        w = layer.left @ layer.right.mT
    if kind == "local":
        near = (torch.arange(21)[:, None] - torch.arange(21)).abs() < 4
        w = torch.where(near, w, 0.0)
    pair = w.exp().tril() if causal else w.exp()
    top = torch.einsum("ts,bsd->btd", pair, k.exp() * v)
    o = q.sigmoid() * top / torch.einsum("ts,bsd->btd", pair, k.exp())
    close(layer(x), layer.out(o))


def test_equal_keys_pool_the_prefix() -> None:
    layer = layer_of("simple", True)
    with torch.no_grad():
        layer.qkv.weight[12:24] = 0.0
    q, _, v = layer.qkv(data()).chunk(3, -1)
    close(layer(data()), layer.out(q.sigmoid() * v.cumsum(1) / torch.arange(1, 22)[:, None]))


def test_a_window_of_everything_is_full_and_of_nothing_is_simple() -> None:
    full, wide, narrow = (
        layer_of("full", True),
        layer_of("local", True, 21),
        layer_of("local", True, 1),
    )
    close(wide(data()), full(data()))
    simple = layer_of("simple", True)
    with torch.no_grad():
        torch.nn.init.zeros_(narrow.left)
    simple.load_state_dict(narrow.state_dict(), strict=False)
    close(narrow(data()), simple(data()))


def test_large_keys_stay_finite() -> None:
    for kind in ("full", "local", "simple"):
        layer = layer_of(kind, True).float()
        x = (100 * data().float()).requires_grad_()
        layer(x).sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()
