"""Titans MAG: decoding and its own limits."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.memory.mag import TitansMAG
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "titans_mag"
CASES = [
    Case(seq(21, 8, may_pad=True), {"heads": 2, "window": 6, "chunk": 4}),
    Case(
        seq(9, 6), {"heads": 3, "window": 4, "persistent": 0, "memories": 2, "depth": 1, "conv": 1}
    ),
    Case(seq(3, 6), {"heads": 1, "window": 16, "persistent": 1, "act": "silu"}),
]


def tokens() -> Tensor:
    return torch.randn(2, 15, 8, dtype=torch.float64)


def windowed(layer: TitansMAG, x: Tensor) -> Tensor:
    """Sliding-window attention with the prefix, written out."""
    assert layer.prefix is not None
    attention, all_keys = layer.attention, torch.cat([layer.prefix.expand(2, -1, -1), x], 1)
    rows = []
    for t in range(x.shape[1]):
        seen = [0, 1, 2, 3, *range(4 + max(0, t - 5), 5 + t)]
        q = attention.split(attention.query(x[:, t : t + 1]))
        k, v = attention.keys(all_keys[:, seen])
        y = (q @ k.mT / 2).softmax(-1) @ v
        rows.append(attention.out(y.transpose(1, 2).flatten(2)))
    return torch.cat(rows, 1)


def test_with_an_open_gate_it_is_window_attention_with_the_prefix() -> None:
    layer, x = TitansMAG(8, 2, window=6).double(), tokens()
    close(layer.attention(x, layer.first(2)), windowed(layer, x))
    with torch.no_grad():
        layer.join.scale_m.zero_()  # sig(0) = 1/2
    close(2 * layer(x), F.rms_norm(windowed(layer, x), (8,), layer.join.scale_y, 1e-6))


def test_the_output_is_attention_times_the_gate_of_the_memory() -> None:
    layer, x = TitansMAG(8, 2, window=6, persistent=0, chunk=4).double(), tokens()
    y = F.rms_norm(layer.attention(x, x[:, :0]), (8,), layer.join.scale_y, 1e-6)
    m = F.rms_norm(layer.memory(x), (8,), layer.join.scale_m, 1e-6)
    close(layer(x), y * m.sigmoid())


def test_the_memory_reaches_beyond_the_window() -> None:
    layer, x = TitansMAG(8, 2, window=3).double(), tokens()
    changed = x.clone()
    changed[:, 0] += 1.0
    assert (layer(changed)[:, 14] - layer(x)[:, 14]).abs().max() > 1e-9
    none = x[:, :0]
    close(layer.attention(changed, none)[:, 14], layer.attention(x, none)[:, 14])
