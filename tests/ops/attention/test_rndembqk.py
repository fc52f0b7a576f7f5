"""Frozen random queries and keys: the seed decides, training does not, a stream replaces them."""

import pytest
import torch

from ops.attention.rndembqk import OP, RandomEmbeddingAttention
from ops.spec import Mismatch, seq
from tests.ops.attention.plain import data, plain
from tests.ops.case import Case, close, complete

OP_NAME = "rndembqk_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "causal": True}, flops="analytic"),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "pos": "rope"}, flops="analytic"),
    Case(seq(21, 12), {"heads": 3, "causal": True}, inputs=(seq(21, 12),), flops="analytic"),
]


def layer_of(seed: int = 0, causal: bool = True) -> RandomEmbeddingAttention:
    torch.manual_seed(3)
    return RandomEmbeddingAttention(12, 3, causal, "none", 21, seed).double()


def test_weights_are_linear_in_the_values_and_equal_for_all_inputs() -> None:
    layer = layer_of()
    x, other = data(), data(seed=5)
    close(layer(x + other), layer(x) + layer(other))
    close(layer(x.flip(0)), layer(x).flip(0))


def test_the_vectors_are_those_of_the_seed_and_no_parameter() -> None:
    assert torch.equal(layer_of(1).noise, layer_of(1).noise)
    assert not torch.equal(layer_of(1).noise, layer_of(2).noise)
    assert "noise" in layer_of().state_dict()
    assert "noise" not in dict(layer_of().named_parameters())


@pytest.mark.parametrize("causal", [False, True])
def test_read_by_itself_it_is_plain_attention(causal: bool) -> None:
    layer = layer_of(causal=causal)
    close(layer(layer.noise), plain(layer)(layer.noise))
    close(layer(data()[:1], data()[:1]), plain(layer)(data()[:1]))


def test_another_shape_is_refused() -> None:
    with pytest.raises(Mismatch, match="qk is"):
        OP.shape(seq(9, 12), seq(8, 12), **complete(OP, {"heads": 3}), seed=0)
