"""BigBird: dense and banded limits, symmetric globals, and random blocks that stay put."""

import torch

from ops.attention.bigbird import BigBirdAttention
from ops.spec import seq
from tests.ops.attention.plain import data, plain
from tests.ops.case import Case, close

OP_NAME = "bigbird_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "block": 4, "causal": True, "random": 2}),
    Case(seq(63, 12, may_pad=True), {"heads": 3, "block": 5, "global_blocks": 1, "pos": "rope"}),
    Case(seq(21, 12), {"heads": 3}),
    Case(seq(21, 12), {"heads": 3, "block": 1, "global_blocks": 0, "random": 0, "causal": True}),
]


def pairs(layer: BigBirdAttention, length: int) -> torch.Tensor:
    place = torch.arange(length)
    return layer.allowed(place[:, None], place[None])


def test_all_blocks_global_or_random_is_dense() -> None:
    for settings in ({"global_blocks": 6}, {"random": 6}):
        for causal in (True, False):
            layer = BigBirdAttention(12, 3, causal, block=4, **settings).double()
            close(layer(data()), plain(layer)(data()))


def test_without_globals_and_random_it_is_a_band_of_blocks() -> None:
    layer = BigBirdAttention(12, 3, block=4, global_blocks=0, random=0)
    block = torch.arange(21) // 4
    assert torch.equal(pairs(layer, 21), (block[:, None] - block).abs() <= 1)


def test_global_blocks_see_and_are_seen_by_all() -> None:
    seen = pairs(BigBirdAttention(12, 3, block=4, global_blocks=1, random=0), 41)
    assert seen[:4].all()
    assert seen[:, :4].all()
    assert torch.equal(seen, seen.mT)


def test_each_row_has_as_many_blocks_as_published() -> None:
    seen = pairs(BigBirdAttention(12, 3, block=1, global_blocks=2, random=3), 40)
    assert (seen[4:-1].sum(-1) == 2 + 3 + 3).all()


def test_causal_picks_do_not_depend_on_the_length_and_seeds_differ() -> None:
    layer = BigBirdAttention(12, 3, causal=True, block=2, random=2, seed=5)
    long = pairs(layer, 60)
    assert torch.equal(pairs(layer, 40), long[:40, :40])
    assert not long.triu(1).any()
    layer.seed = 6
    assert not torch.equal(pairs(layer, 60), long)
