"""Latent attention: the formula, absorbed decoding, state size, multi-head attention as a limit."""

import pytest
import torch
from torch.nn import functional as F

from ops.attention.engine import split_heads
from ops.attention.mla import OP, LatentAttention
from ops.kernels.positions import rotary
from ops.spec import Mismatch, seq
from tests.ops.attention.plain import data
from tests.ops.case import Case, bench, close, complete

OP_NAME = "mla"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "latent": 5, "causal": True}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "latent": 8, "q_latent": 7}),
    Case(
        seq(21, 10),
        {"heads": 3, "latent": 8, "causal": True, "nope": 3, "rope": 4, "value": 5, "q_latent": 6},
    ),
]


@pytest.mark.parametrize("causal", [False, True])
def test_it_is_the_formula(causal: bool) -> None:
    layer = LatentAttention(12, 3, 5, causal, nope=4, rope=2, value=6).double()
    torch.nn.init.normal_(layer.norm)
    x, place = data(), torch.arange(21)
    c = layer.down(x)[..., :5]
    c = layer.norm * c / (c.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    turned = rotary(layer.down(x)[..., 5:], place)
    q, up = split_heads(layer.q(x), 3), split_heads(layer.up(c), 3)
    out = []
    for h in range(3):
        query = torch.cat([q[:, h, :, :4], rotary(q[:, h, :, 4:], place)], -1)
        logits = query @ torch.cat([up[:, h, :, :4], turned], -1).mT / 6**0.5
        if causal:
            logits = logits.masked_fill(torch.ones(21, 21).triu(1).bool(), float("-inf"))
        out.append(logits.softmax(-1) @ up[:, h, :, 4:])
    close(layer(x), layer.out(torch.cat(out, -1)))


def test_equal_queries_and_no_positions_pool_the_prefix() -> None:
    layer = LatentAttention(12, 3, 5, True, nope=4, rope=2, value=4).double()
    torch.nn.init.zeros_(layer.q.weight)
    c = F.rms_norm(layer.down(data())[..., :5], (5,), layer.norm, 1e-6)
    v = split_heads(layer.up(c), 3)[..., 4:].transpose(1, 2).flatten(2)
    close(layer(data()), layer.out(v.cumsum(1) / torch.arange(1, 22)[:, None]))


def test_the_state_is_latent_and_rope_numbers_a_token() -> None:
    case = Case(seq(100, 64), {"heads": 4, "latent": 24, "causal": True, "rope": 8})
    assert bench("mla", case).cost.state == 4 * 100 * (24 + 8) + 8


def test_an_odd_rotary_width_is_refused() -> None:
    with pytest.raises(Mismatch, match="even width"):
        OP.shape(seq(9, 12), **complete(OP, {"heads": 3, "latent": 4, "rope": 3}))
