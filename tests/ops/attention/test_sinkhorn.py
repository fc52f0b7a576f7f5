"""Sinkhorn attention: doubly stochastic sorts, one block is dense, identity sorts are local."""

import torch

from ops.attention.engine import split_heads
from ops.attention.sinkhorn import SinkhornAttention, sinkhorn_sort
from ops.attention.softmax import SoftmaxAttention
from ops.spec import seq
from tests.ops.attention.plain import data
from tests.ops.case import Case, close

OP_NAME = "sinkhorn_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "block": 8}),
    Case(seq(21, 12, may_pad=True), {"heads": 2, "block": 4, "steps": 3}),
    Case(seq(21, 12), {"heads": 3}),
]


def test_many_steps_make_rows_and_columns_sum_to_one() -> None:
    torch.manual_seed(0)
    order = sinkhorn_sort(torch.randn(3, 6, 6, dtype=torch.float64), 50)
    close(order.sum(-2), torch.ones(3, 6, dtype=torch.float64))
    torch.testing.assert_close(order.sum(-1), torch.ones(3, 6).double(), rtol=1e-3, atol=1e-3)


def test_one_block_is_dense_attention() -> None:
    layer = SinkhornAttention(12, 3, 21).double().eval()
    dense = SoftmaxAttention(12, 3).double()
    q, kv = layer.qkv.weight.detach().split([12, 24])
    dense.load_state_dict({"q.weight": q, "kv.weight": kv, "out.weight": layer.out.weight.detach()})
    close(layer(data()), dense.alone(data()))


def test_sorted_values_come_from_values() -> None:
    layer = SinkhornAttention(12, 1, 1).double().eval()
    with torch.no_grad():
        layer.qkv.weight[24:] = 0.0
    assert not layer(data()).any()


def test_a_sort_onto_itself_is_attention_inside_the_block() -> None:
    layer = SinkhornAttention(12, 3, 7, temperature=0.05).double().eval()
    layer.sort = lambda q, k, count: torch.eye(3, dtype=q.dtype).expand(2, 3, 3, 3)  # type: ignore[method-assign]  # a fixed sort
    x = data()
    q, k, v = (split_heads(z, 3).unflatten(2, (3, 7)) for z in layer.qkv(x).chunk(3, -1))
    inside = (q @ k.mT / 2).softmax(-1) @ v
    close(layer(x), layer.out(inside.flatten(2, 3).transpose(1, 2).flatten(2)))


def test_noise_is_drawn_in_training_only() -> None:
    layer = SinkhornAttention(12, 3, 4).double()
    x = data()
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    layer.eval()
    assert torch.equal(layer(x), layer(x))
