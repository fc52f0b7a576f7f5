"""Talking heads: the identity mixes are plain attention; the formula head by head."""

import pytest
import torch

from ops.attention.engine import split_heads
from ops.attention.talking_heads import TalkingHeads
from ops.spec import seq
from tests.ops.attention.plain import data, plain
from tests.ops.case import Case, close

OP_NAME = "talking_heads"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "causal": True}),
    Case(seq(21, 12, may_pad=True), {"heads": 6, "pos": "rope"}),
    Case(seq(9, 12), {"heads": 1, "causal": True, "pos": "rope"}),
]


@pytest.mark.parametrize("causal", [False, True])
def test_identity_mixes_are_multi_head_attention(causal: bool) -> None:
    layer = TalkingHeads(12, 3, causal).double()
    close(layer(data()), plain(layer)(data()))


def test_it_is_the_formula() -> None:
    layer = TalkingHeads(12, 3).double()
    torch.nn.init.normal_(layer.mix_logits)
    torch.nn.init.normal_(layer.mix_weights)
    x = data()
    q = split_heads(layer.q(x), 3)
    k, v = (split_heads(z, 3) for z in layer.kv(x).chunk(2, -1))
    logits = [q[:, h] @ k[:, h].mT / 2 for h in range(3)]
    mixed = [sum(layer.mix_logits[h, g] * logits[h] for h in range(3)) for g in range(3)]
    maps = [torch.as_tensor(z).softmax(-1) for z in mixed]
    heads = [sum(layer.mix_weights[h, g] * maps[h] for h in range(3)) @ v[:, g] for g in range(3)]
    close(layer(x), layer.out(torch.cat(heads, -1)))
