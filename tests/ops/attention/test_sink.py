"""Sinks and a window: the dense and the sliding limits, unreached tokens, places in the cache."""

import pytest
import torch

from ops.attention.sink import OP, SinkAttention
from ops.attention.window import WindowAttention
from ops.spec import Mismatch, seq
from tests.ops.attention.plain import data, plain
from tests.ops.case import Case, close, complete

OP_NAME = "sink_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "window": 5, "sink": 2}),
    Case(seq(63, 12, may_pad=True), {"heads": 3, "window": 7, "pos": "rope"}),
    Case(seq(63, 12), {"heads": 3, "window": 6, "sink": 3, "pos": "rope", "reindex": True}),
    Case(seq(9, 12), {"heads": 1, "window": 64, "sink": 20}),
    Case(seq(21, 12), {"heads": 3, "window": 1, "sink": 0}),
]


def test_a_window_over_everything_is_dense() -> None:
    layer = SinkAttention(12, 3, window=21, sink=4, pos="rope").double()
    close(layer(data()), plain(layer)(data()))
    layer = SinkAttention(12, 3, window=21, sink=4, pos="rope", reindex=True).double()
    close(layer(data()), plain(layer)(data()))


@pytest.mark.parametrize("reindex", [False, True])
def test_without_sinks_it_is_a_sliding_window(reindex: bool) -> None:
    layer = SinkAttention(12, 3, window=5, sink=0, pos="rope", reindex=reindex).double()
    window = WindowAttention(12, 3, window=5, pos="rope").double()
    with torch.no_grad():
        window.qkv.weight.copy_(torch.cat([layer.q.weight, layer.kv.weight]))
        window.out.weight.copy_(layer.out.weight)
    close(layer(data()), window(data()))


def test_tokens_outside_window_and_sinks_have_no_gradient() -> None:
    layer = SinkAttention(12, 3, window=4, sink=2).double()
    x = data().requires_grad_()
    layer(x)[:, 20].sum().backward()
    assert x.grad is not None
    reached = x.grad.ne(0).any(-1)
    assert reached[0].nonzero().flatten().tolist() == [0, 1, 17, 18, 19, 20]


def test_reindexed_outputs_depend_on_the_cached_tokens_only_not_on_how_long_ago() -> None:
    layer = SinkAttention(12, 3, window=4, sink=2, pos="rope", reindex=True).double()
    x = data(30)
    short = torch.cat([x[:, :2], x[:, 26:]], dim=1)
    close(layer(x)[:, -1], layer(short)[:, -1])
    true_places = SinkAttention(12, 3, window=4, sink=2, pos="rope").double()
    true_places.load_state_dict(layer.state_dict())
    assert not torch.allclose(true_places(x)[:, -1], true_places(short)[:, -1], atol=1e-4)


def test_reindexing_needs_positions() -> None:
    with pytest.raises(Mismatch, match="changes nothing"):
        OP.shape(seq(9, 12), **complete(OP, {"heads": 3, "window": 4, "reindex": True}))
