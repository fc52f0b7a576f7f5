"""Queries and keys from the embedding: equal to plain attention where the streams are equal."""

import pytest

from ops.attention.staticembqk import OP, StaticEmbeddingAttention
from ops.spec import Mismatch, seq
from tests.ops.attention.plain import data, plain
from tests.ops.case import Case, close, complete

OP_NAME = "staticembqk_attn"
CASES = [
    Case(
        seq(63, 12, may_pad=True),
        {"heads": 3, "causal": True},
        inputs=(seq(63, 12, may_pad=True),),
    ),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "pos": "rope"}, inputs=(seq(21, 12),)),
    Case(seq(21, 12), {"heads": 3, "causal": True, "pos": "rope"}, inputs=(seq(21, 12),)),
]


@pytest.mark.parametrize("pos", ["none", "rope"])
@pytest.mark.parametrize("causal", [False, True])
def test_equal_streams_are_plain_attention(pos: str, causal: bool) -> None:
    layer = StaticEmbeddingAttention(12, 3, causal, pos).double()
    close(layer(data(), data()), plain(layer)(data()))


def test_the_weights_depend_on_qk_only_and_the_values_on_x_only() -> None:
    layer = StaticEmbeddingAttention(12, 3).double()
    x, other, e = data(), data(seed=5), data(seed=6)
    close(layer(x + other, e), layer(x, e) + layer(other, e))
    assert not layer(x, e).isclose(layer(x, other)).all()


def test_another_shape_is_refused() -> None:
    with pytest.raises(Mismatch, match="qk is"):
        OP.shape(seq(9, 12), seq(9, 6), **complete(OP, {"heads": 3}))
