"""Sliding window: its reach, its dense limit and its ring."""

import pytest
import torch

from ops.attention.softmax import SoftmaxAttention
from ops.attention.window import WindowAttention
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "window_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "window": 5}),
    Case(seq(63, 12, may_pad=True), {"heads": 3, "window": 40, "pos": "rope"}),
    Case(seq(90, 12, may_pad=True), {"heads": 3, "window": 37}),
    Case(seq(21, 12), {"heads": 3, "window": 64}),
    Case(seq(7, 12), {"heads": 1, "window": 1}),
]


def test_tokens_older_than_the_window_do_not_matter() -> None:
    layer = WindowAttention(dim=32, heads=4, window=5)
    x = torch.randn(1, 90, 32)
    changed = x.clone()
    changed[:, :70] = 0.0
    close(layer(x)[:, 74:], layer(changed)[:, 74:])
    assert not torch.allclose(layer(x)[:, 73], layer(changed)[:, 73], atol=1e-4)


@pytest.mark.parametrize("pos", ["none", "rope"])
@pytest.mark.parametrize("length", [20, 90])
def test_a_window_over_everything_is_dense_causal_attention(pos: str, length: int) -> None:
    layer = WindowAttention(dim=12, heads=3, window=90, pos=pos).double()
    dense = SoftmaxAttention(dim=12, heads=3, causal=True, pos=pos).double()
    q, kv = layer.qkv.weight.detach().split([12, 24])
    weights = {"q.weight": q, "kv.weight": kv, "out.weight": layer.out.weight.detach()}
    dense.load_state_dict(weights)
    x = torch.randn(2, length, 12, dtype=torch.float64)
    close(layer(x), dense.alone(x))


def test_a_window_of_one_is_the_value_projection() -> None:
    layer = WindowAttention(dim=12, heads=3, window=1).double()
    x = torch.randn(2, 40, 12, dtype=torch.float64)
    close(layer(x), layer.out(layer.qkv(x)[..., 24:]))


def test_a_token_outside_the_window_has_no_gradient() -> None:
    layer = WindowAttention(dim=12, heads=3, window=4)
    x = torch.randn(1, 50, 12, requires_grad=True)
    layer(x)[:, 49].sum().backward()
    assert x.grad is not None
    assert not x.grad[:, :46].any()
    assert x.grad[:, 46:].ne(0).any(-1).all()
