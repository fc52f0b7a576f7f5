"""Latents: equal for every input, learned through what reads into them."""

import torch

from einspace.compile import compile_text
from einspace.interface import Interface
from einspace.load import load
from ops.attention.latents import Latents
from ops.spec import seq, tokens
from tests.ops.case import Case, close

OP_NAME = "latents"
CASES = [Case(tokens(9, 5), {"count": 4, "dim": 6}), Case(tokens(7, 3), {"count": 1, "dim": 3})]


def test_rows_are_those_of_every_sample() -> None:
    layer = Latents(4, 6)
    close(layer(torch.zeros(3, 2)), layer.rows.expand(3, 4, 6))


def test_latents_read_a_padded_sequence_without_its_padding() -> None:
    text = (
        "linear(dim=8) as input >> latents(count=3, dim=8) "
        ">> residual(softmax_attn(heads=2, kv=@input)) >> head"
    )
    padded = compile_text(text, Interface({"x": seq(9, 5, may_pad=True)}, seq(3, 2)))
    short = compile_text(text, Interface({"x": seq(6, 5)}, seq(3, 2)))
    torch.manual_seed(0)
    model, cut = load(padded.source)(), load(short.source)()
    cut.load_state_dict(model.state_dict())
    x = torch.randn(2, 9, 5)
    x[:, 6:] = 0.0
    torch.testing.assert_close(model(x), cut(x[:, :6]))
    model(x).sum().backward()
    assert model.latents.rows.grad.any()
