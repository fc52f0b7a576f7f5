"""Dilated windows: reach, parity classes, the dense and the undilated limits."""

import torch

from ops.attention.dilated import DilatedAttention
from ops.attention.sink import SinkAttention
from ops.spec import seq
from tests.ops.attention.plain import data, plain
from tests.ops.case import Case, close

OP_NAME = "dilated_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "causal": True, "window": 4, "dilation": 3}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "window": 5, "dilation": 2, "pos": "alibi"}),
    Case(seq(21, 12), {"heads": 3, "causal": True, "window": 64, "pos": "rope"}),
]


def test_dilation_1_over_everything_is_dense() -> None:
    for causal in (True, False):
        layer = DilatedAttention(12, 3, causal, window=42, dilation=1).double()
        close(layer(data()), plain(layer)(data()))


def test_dilation_1_is_a_sliding_window() -> None:
    layer = DilatedAttention(12, 3, True, "rope", window=5, dilation=1).double()
    window = SinkAttention(12, 3, window=5, sink=0, pos="rope").double()
    window.load_state_dict(layer.state_dict())
    close(layer(data()), window(data()))


def test_every_second_token_is_dense_attention_over_its_own_class() -> None:
    layer = DilatedAttention(12, 3, window=42, dilation=2).double()
    x = data()
    close(layer(x)[:, ::2], plain(layer)(x[:, ::2]))
    close(layer(x)[:, 1::2], plain(layer)(x[:, 1::2]))


def test_the_reach_of_a_causal_query() -> None:
    layer = DilatedAttention(12, 3, True, window=3, dilation=4).double()
    x = data().requires_grad_()
    layer(x)[:, 20].sum().backward()
    assert x.grad is not None
    assert x.grad.ne(0).any(-1)[0].nonzero().flatten().tolist() == [12, 16, 20]
    assert torch.equal(x.grad.ne(0).any(-1)[0], x.grad.ne(0).any(-1)[1])
