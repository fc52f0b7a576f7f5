"""Mixture of blocks: dense and local limits, exact top keys, a choice that never looks ahead."""

import torch

from ops.attention.moba import BlockMixtureAttention
from ops.spec import seq
from tests.ops.attention.plain import data, plain
from tests.ops.case import Case, close

OP_NAME = "moba_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "block": 5, "top": 3}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "block": 4, "top": 2, "pos": "rope"}),
    Case(seq(21, 12), {"heads": 3}),
]


def chosen(layer: BlockMixtureAttention, x: torch.Tensor) -> torch.Tensor:
    place = torch.arange(x.shape[1])
    q, k, _ = layer.project(x, x, place)
    return layer.chosen(q, k, place, None)


def test_all_blocks_are_dense() -> None:
    layer = BlockMixtureAttention(12, 3, 4, 6, "rope").double()
    close(layer(data()), plain(layer)(data()))


def test_one_block_is_local() -> None:
    layer = BlockMixtureAttention(12, 3, 7, 1).double()
    y = layer(data())
    for first in (0, 7, 14):
        close(y[:, first : first + 7], plain(layer)(data()[:, first : first + 7]))


def test_blocks_of_one_token_are_the_best_keys() -> None:
    layer = BlockMixtureAttention(12, 3, 1, 3).double()
    q, k, _ = layer.project(data(), data(), torch.arange(21))
    logits = (q @ k.mT)[:, :, 20, :20]
    best = logits.topk(2, -1).indices
    rows = chosen(layer, data())[:, :, 20]
    assert rows.sum(-1).eq(3).all()
    assert rows[..., 20].all()
    assert rows.gather(-1, best).all()


def test_a_query_reads_at_most_top_blocks_its_own_among_them() -> None:
    layer = BlockMixtureAttention(12, 3, 4, 2).double()
    blocks = chosen(layer, data())[..., ::4]
    own = torch.arange(21) // 4
    assert blocks.sum(-1).max() == 2
    assert blocks.gather(-1, own[:, None].expand(2, 3, 21, 1)).all()
    assert not (blocks & (torch.arange(6) > own[:, None])).any()


def test_the_choice_has_no_gradient_but_the_weights_have() -> None:
    layer = BlockMixtureAttention(12, 3, 4, 2).double()
    x = data().requires_grad_()
    layer(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.any()
    assert not chosen(layer, x).requires_grad
