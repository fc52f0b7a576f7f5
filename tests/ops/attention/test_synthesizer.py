"""Synthesizers: each kind's formula, the mixture's limit, weights that ignore the pair."""

import pytest
import torch

from ops.attention.engine import split_heads
from ops.attention.synthesizer import Synthesizer
from ops.spec import seq
from tests.ops.attention.plain import data
from tests.ops.case import Case, close

OP_NAME = "synthesizer"
KINDS = ["dense", "random", "fixed", "factorized"]
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "causal": True}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "kind": "random"}),
    Case(seq(21, 12), {"heads": 3, "kind": "fixed", "causal": True}),
    Case(seq(21, 12), {"heads": 3, "kind": "factorized", "causal": True}, flops="analytic"),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "dot": True, "causal": True}),
]


def layer_of(kind: str, causal: bool = False, dot: bool = False) -> Synthesizer:
    torch.manual_seed(0)
    return Synthesizer(12, 3, causal, kind, 8, dot, 21).double()


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_softmax_of_its_table(kind: str) -> None:
    layer, x = layer_of(kind, causal=True), data()
    if kind == "dense":
        z = split_heads(layer.first(x).relu(), 3) @ layer.second
    elif kind == "factorized":
        z = (layer.left @ layer.right.mT)[None]
    else:
        z = layer.table[None]
    weights = z.masked_fill(torch.ones(21, 21).triu(1).bool(), float("-inf")).softmax(-1)
    mixed = weights @ split_heads(layer.v(x), 3)
    close(layer(x), layer.out(mixed.transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("kind", ["random", "fixed", "factorized"])
def test_all_but_dense_are_linear(kind: str) -> None:
    layer = layer_of(kind)
    close(layer(data() + data(seed=4)), layer(data()) + layer(data(seed=4)))


def test_dense_rows_depend_on_their_own_token_only() -> None:
    layer = layer_of("dense")
    changed = data()
    changed[:, 4] += 1
    place = torch.arange(21)
    same = layer.synthesized(changed, place, 21).isclose(layer.synthesized(data(), place, 21))
    assert same.all(-1)[:, :, torch.arange(21) != 4].all()
    assert not same[:, :, 4].all(-1).any()


def test_a_mixture_without_a_table_is_dot_product_attention() -> None:
    layer = layer_of("random", dot=True)
    torch.nn.init.zeros_(layer.table)
    assert layer.qk is not None
    q, k = (split_heads(z, 3) for z in layer.qk(data()).chunk(2, -1))
    mixed = (q @ k.mT / 2).softmax(-1) @ split_heads(layer.v(data()), 3)
    close(layer(data()), layer.out(mixed.transpose(1, 2).flatten(2)))


def test_an_empty_table_is_the_mean() -> None:
    layer = layer_of("random")
    torch.nn.init.zeros_(layer.table)
    close(layer(data()), layer.out(layer.v(data()).mean(1, keepdim=True)).expand(-1, 21, -1))
    assert "table" not in dict(layer_of("fixed").named_parameters())
