"""Prefix attention: its two limits, and what each half sees."""

import torch

from ops.attention.prefix import PrefixAttention
from ops.spec import seq
from tests.ops.attention.plain import data, plain
from tests.ops.case import Case, close

OP_NAME = "prefix_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "prefix": 0}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "prefix": 8, "pos": "rope"}),
    Case(seq(21, 12), {"heads": 3, "prefix": 64, "pos": "alibi"}),
    Case(seq(21, 12), {"heads": 3, "prefix": 1, "pos": "alibi"}),
]


def test_no_prefix_is_causal_and_all_prefix_is_bidirectional() -> None:
    layer = PrefixAttention(12, 3, prefix=0, pos="rope").double()
    close(layer(data()), plain(layer)(data()))
    layer.prefix = 21
    both = plain(layer)
    both.causal = False
    close(layer(data()), both(data()))


def test_the_prefix_is_whole_and_the_rest_causal() -> None:
    layer = PrefixAttention(12, 3, prefix=6).double()
    x = data().requires_grad_()
    layer(x)[:, 2].sum().backward()
    assert x.grad is not None
    assert x.grad.ne(0).any(-1)[0].tolist() == [True] * 6 + [False] * 15
    x.grad = None
    layer(x)[:, 12].sum().backward()
    grad = torch.as_tensor(x.grad)
    assert grad.ne(0).any(-1)[0].tolist() == [True] * 13 + [False] * 8
