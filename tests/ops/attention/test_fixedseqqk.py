"""One fixed text decides the weights: the same for every input and every row."""

import pytest
import torch

from einspace.compile import compile_text
from einspace.interface import Interface
from einspace.load import load
from ops.attention.fixedseqqk import OP, FixedSequenceAttention
from ops.spec import Mismatch, seq, tokens
from tests.ops.attention.plain import data, plain
from tests.ops.case import Case, close, complete

OP_NAME = "fixedseqqk_attn"
CASES = [
    Case(
        seq(63, 12, may_pad=True),
        {"heads": 3, "causal": True},
        inputs=(seq(63, 12),),
        flops="analytic",
    ),
    Case(
        seq(21, 12, may_pad=True),
        {"heads": 3, "pos": "rope"},
        inputs=(seq(21, 12),),
        flops="analytic",
    ),
]


@pytest.mark.parametrize("causal", [False, True])
def test_its_own_text_is_plain_attention(causal: bool) -> None:
    layer = FixedSequenceAttention(12, 3, causal, "rope").double()
    x = data()[:1]
    close(layer(x, x), plain(layer)(x))


def test_the_weights_are_those_of_every_input_and_rows_change_values_only() -> None:
    layer = FixedSequenceAttention(12, 3).double()
    x, e = data(), data(seed=6)
    close(layer(x.flip(0), e), layer(x, e).flip(0))
    close(layer(x, e), layer(x, e[:1].expand_as(e)))
    close(layer(x + 1, e) - layer(x, e), layer(0 * x + 1, e))


def test_a_fixed_stream_led_through_the_model_is_standard_on_its_own_text() -> None:
    lm = Interface({"tokens": tokens(9, 7)}, seq(9, 7), causal=True)
    fixed = compile_text(
        "let emb = embed(dim=12); "
        "fork(@tokens >> emb, @tokens >> fixed_tokens >> emb >> rms_norm as f) "
        ">> each(rms_norm >> fixedseqqk_attn(heads=3, causal, qk=@f), id) >> add >> head",
        lm,
    )
    torch.manual_seed(0)
    model = load(fixed.source)()
    text = model.fixed_tokens.text[None]
    first, second = model(text), model(text.flip(1))
    assert not torch.allclose(first, second)
    attention = model.fixedseqqk_attn
    e = model.rms_norm(model.embed(text)) if hasattr(model, "embed") else None
    assert e is not None
    torch.testing.assert_close(attention(e, e), plain(attention).float()(e))


def test_another_shape_is_refused() -> None:
    with pytest.raises(Mismatch, match="qk is"):
        OP.shape(seq(9, 12), seq(8, 12), **complete(OP, {"heads": 3}))
