"""Titans MAL: decoding and its own limits."""

import torch
from torch import Tensor

from ops.memory.mal import TitansMAL
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "titans_mal"
CASES = [
    Case(seq(21, 8, may_pad=True), {"heads": 2, "window": 6, "chunk": 4}),
    Case(
        seq(9, 6), {"heads": 3, "window": 4, "persistent": 0, "memories": 2, "depth": 1, "conv": 1}
    ),
    Case(seq(3, 6), {"heads": 1, "window": 16, "persistent": 1, "act": "silu"}),
]


def tokens() -> Tensor:
    return torch.randn(2, 15, 8, dtype=torch.float64)


def test_it_is_attention_over_the_memory() -> None:
    layer, x = TitansMAL(8, 2, window=6, persistent=0, chunk=4).double(), tokens()
    close(layer(x), layer.attention(layer.memory(x), x[:, :0]))


def test_persistent_tokens_are_read_first_and_stay_visible() -> None:
    layer, x = TitansMAL(8, 2, window=1, chunk=4).double(), tokens()
    assert layer.prefix is not None
    y = layer.memory(torch.cat([layer.prefix.expand(2, -1, -1), x], 1))
    seen = torch.cat([y[:, :4], y[:, 18:]], 1)
    q = layer.attention.split(layer.attention.query(y[:, 18:]))
    k, v = layer.attention.keys(seen)
    expected = layer.attention.out(((q @ k.mT / 2).softmax(-1) @ v).transpose(1, 2).flatten(2))
    close(layer(x)[:, 14:], expected)
