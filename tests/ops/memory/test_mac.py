"""Titans MAC: decoding and its own limits."""

import torch
from torch import Tensor

from ops.memory.mac import TitansMAC
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "titans_mac"
CASES = [
    Case(seq(21, 8, may_pad=True), {"heads": 2, "segment": 6}),
    Case(
        seq(9, 6), {"heads": 3, "segment": 4, "persistent": 0, "memories": 2, "depth": 1, "conv": 1}
    ),
    Case(seq(3, 6), {"heads": 1, "segment": 16, "persistent": 1, "act": "silu"}),
]


def tokens() -> Tensor:
    return torch.randn(2, 15, 8, dtype=torch.float64)


def test_the_first_segment_recalls_the_learned_memory() -> None:
    layer, x = TitansMAC(8, 2, segment=20).double(), tokens()
    y = layer.attend(x, layer.memory.fresh(2)[0])
    close(layer(x), layer.join(y, layer.memory(y)))


def test_segments_of_one_token_see_the_prefix_their_memory_and_themselves() -> None:
    layer, x = TitansMAC(8, 2, segment=1, conv=1).double(), tokens()
    with torch.no_grad():
        layer.memory.gates.bias[2].fill_(-1e4)  # theta = 0: nothing is written
        layer.memory.gates.bias[0].fill_(-1e4)  # alpha = 0: nothing is forgotten
    assert layer.prefix is not None
    start = layer.memory.fresh(2)[0]
    sets = torch.stack([layer.first(2).flatten(1)] * 15, 1).unflatten(-1, (4, 8))
    sets = torch.cat([sets, layer.recalled(x, start)[:, :, None], x[:, :, None]], 2)
    k, v = layer.attention.keys(sets.flatten(0, 1))
    q = layer.attention.split(layer.attention.query(x.reshape(30, 1, 8)))
    y = layer.attention.out(((q @ k.mT / 2).softmax(-1) @ v).transpose(1, 2).flatten(2))
    y = y.view(2, 15, 8)
    close(layer(x), layer.join(y, layer.memory(y)))


def test_a_segment_reads_what_the_one_before_it_has_written() -> None:
    layer, x = TitansMAC(8, 2, segment=5, persistent=0).double(), tokens()
    changed = x.clone()
    changed[:, 4] += 1.0
    assert (layer(changed)[:, 12] - layer(x)[:, 12]).abs().max() > 1e-9


def test_inside_a_segment_no_token_sees_a_later_one() -> None:
    layer, x = TitansMAC(8, 2, segment=15).double(), tokens()
    changed = x.clone()
    changed[:, 8:] += 1.0
    close(layer(changed)[:, :8], layer(x)[:, :8])
