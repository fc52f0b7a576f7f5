"""Reformer: two chunks see everything, rounds agree there, hashes group equal tokens."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ops.attention.engine import split_heads
from ops.attention.reformer import ReformerAttention
from ops.spec import seq
from tests.ops.attention.plain import data
from tests.ops.case import Case, close

OP_NAME = "reformer_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "chunk": 5, "rounds": 2}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "chunk": 6, "rounds": 1, "ordered": True}),
    Case(seq(21, 12), {"heads": 3}),
]


def layer_of(chunk: int, rounds: int = 1, ordered: bool = False) -> ReformerAttention:
    torch.manual_seed(0)
    return ReformerAttention(12, 3, chunk, rounds, ordered, 4, 0).double()


def dense(layer: ReformerAttention, x: Tensor) -> Tensor:
    """Every pair, with shared normalised keys and oneself only where alone."""
    q, v = split_heads(layer.qk(x), 3), split_heads(layer.v(x), 3)
    logits = q @ F.normalize(q, dim=-1).mT / 2 - 5e4 * torch.eye(x.shape[1])
    if layer.ordered:
        logits = logits.masked_fill(torch.ones_like(logits[0, 0]).triu(1).bool(), float("-inf"))
    return layer.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("chunk", [10, 20, 30])
def test_one_or_two_chunks_are_dense(chunk: int, ordered: bool) -> None:
    layer = layer_of(chunk, ordered=ordered)
    close(layer(data(20)), dense(layer, data(20)))
    close(layer(data(17)), dense(layer, data(17)))


def test_rounds_that_see_everything_agree() -> None:
    close(layer_of(10, 3)(data(20)), layer_of(10, 1)(data(20)))


def test_more_rounds_come_closer_to_dense() -> None:
    far = []
    for rounds in (1, 16):
        torch.manual_seed(0)
        layer = ReformerAttention(12, 3, 8, rounds, False, 10, 0).double()
        x = data(80)
        far.append((layer(x) - dense(layer, x)).norm())
    assert far[1] < far[0]


def test_a_token_alone_attends_itself() -> None:
    layer = layer_of(4, ordered=True)
    close(layer(data(20))[:, 0], layer.out(layer.v(data(20)))[:, 0])


def test_sorting_puts_a_bucket_together_in_order_and_padding_last() -> None:
    layer = layer_of(5)
    q = torch.randn(1, 1, 4, 4).double()
    q = q[:, :, torch.arange(20) % 4]
    real = (torch.arange(20) < 17)[None]
    order = layer.order(q, layer.turns[0], real)[0, 0]
    assert order[17:].tolist() == [17, 18, 19]
    turned = q[0, 0] @ layer.turns[0].double()
    bucket = torch.cat([turned, -turned], -1).argmax(-1)[order[:17]]
    assert torch.equal(bucket, bucket.sort().values)
    for b in bucket.unique():
        assert (order[:17][bucket == b].diff() > 0).all()


def test_later_values_stay_out_when_ordered() -> None:
    layer = layer_of(4, 2, ordered=True)
    x = data(20)
    v = layer.v(x).detach().requires_grad_()
    layer.v = torch.nn.Identity()
    layer.qk.forward = lambda _: x.detach() @ layer.qk.weight.mT  # type: ignore[method-assign]  # the choice is held
    layer(v)[:, 8].sum().backward()
    assert v.grad is not None
    assert not v.grad[:, 9:].any()
    assert v.grad[:, :9].any()
