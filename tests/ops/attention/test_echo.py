"""Echo attention: the leader's weights, found through the language, in forward and in steps."""

import pytest
import torch

from einspace.compile import compile_text
from einspace.interface import Interface
from einspace.load import load
from grammar.errors import SpaceError
from ops.attention.echo import EchoAttention
from ops.attention.softmax import SoftmaxAttention
from ops.spec import seq, tokens
from tests.einspace.oracle import built, interpret, random_input
from tests.ops.attention.plain import data
from tests.ops.case import Case, close

OP_NAME = "echo_attn"
CASES = [
    Case(
        seq(63, 12, may_pad=True),
        {"heads": 3},
        inputs=(seq(63, 12), seq(63, 12), seq(63, 3)),
        waive={"steps": "a random lse makes sums of 1e3 in fp32; the sentence below decodes"},
    ),
    Case(seq(21, 3), {"heads": 3}, inputs=(seq(21, 3), seq(21, 3), seq(21, 3))),
    Case(
        seq(21, 12, may_pad=True),
        {"heads": 6, "kv_heads": 2, "causal": False},
        inputs=(seq(21, 12), seq(21, 4), seq(21, 6)),
    ),
]
LM = Interface({"tokens": tokens(16, 9)}, seq(16, 9), causal=True)
LEAD = "embed(dim=12) >> residual(rms_norm >> softmax_attn(heads={h}, causal{more}) as lead)"
MODEL = LEAD + " >> residual(rms_norm >> echo_attn(heads={h}, {kv}qk=@lead.q)) * 2 >> head"


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sink", ["none", "one", "learned"])
def test_with_the_leaders_values_it_gives_the_leaders_output(causal: bool, sink: str) -> None:
    leader = SoftmaxAttention(12, 6, 2, causal, "rope", qk_norm=True, sink=sink).double()
    if sink == "none" and not causal:
        leader = SoftmaxAttention(12, 6, 2, causal, scale=0.3).double()
    echo = EchoAttention(12, 6, 2, causal).double()
    with torch.no_grad():
        echo.v.weight.copy_(leader.kv.weight[4:])
        echo.out.weight.copy_(leader.out.weight)
    mask = torch.arange(21) < torch.tensor([21, 13])[:, None]
    for given in (None, mask):
        y, q, k, lse = leader(data(), mask=given)
        found = echo(data(), q, k, lse, mask=given)
        close(found if given is None else found[mask], y if given is None else y[mask])


def test_the_leaders_queries_learn_from_both_layers() -> None:
    compiled = compile_text(MODEL.format(h=3, more="", kv=""), LM)
    model = built(compiled)
    leader = model.softmax_attn
    y = model(random_input(tokens(16, 9)))
    (whole,) = torch.autograd.grad(y.square().sum(), leader.q.weight)
    for part in (leader.out.weight, leader.kv.weight):
        assert part.requires_grad
    with torch.no_grad():
        leader.out.weight.zero_()
    y = model(random_input(tokens(16, 9)))
    (echoed,) = torch.autograd.grad(y.square().sum(), leader.q.weight)
    assert echoed.any()
    assert not torch.allclose(whole, echoed)


@pytest.mark.parametrize(
    ("heads", "more", "kv"),
    [
        (3, ", pos=rope", ""),
        (6, ", kv_heads=2, sink=learned", "kv_heads=2, "),
        (3, ", qk_norm", ""),
    ],
)
def test_the_sentence_is_the_oracle_and_decodes(heads: int, more: str, kv: str) -> None:
    compiled = compile_text(MODEL.format(h=heads, more=more, kv=kv), LM)
    model, x = built(compiled), random_input(tokens(16, 9))
    with torch.no_grad():
        y = model(x)
        torch.testing.assert_close(y, interpret(compiled, model, [x]))
        state, parts = model.init_state(2, 16), []
        for t in range(16):
            now, state = model.step(x[:, t : t + 1], state)
            parts.append(now)
    torch.testing.assert_close(torch.cat(parts, 1), y, rtol=1e-4, atol=1e-5)
    assert "y, z, u, v" in compiled.source or "step_all" in compiled.source


def test_an_unread_export_is_never_computed() -> None:
    source = compile_text((LEAD + " >> head").format(h=3, more=""), LM).source
    assert "self.softmax_attn.alone(" in source
    model = source.partition("class Model")[2].partition("\n\n\n")[0]
    assert "def step(" in model
    assert "step_all(x" not in model
    assert load(source)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (MODEL.format(h=3, more=", pos=alibi", kv=""), "exports nothing here"),
        (MODEL.format(h=6, more=", kv_heads=2", kv=""), "kv_heads=None of 'echo_attn'"),
        (MODEL.format(h=6, more="", kv="causal=false, "), "causal"),
        (MODEL.format(h=6, more="", kv="").replace("@lead.q", "@tokens"), "needs an export"),
        (MODEL.format(h=3, more=", pos=lrpe", kv=""), "the leader's qk is"),
    ],
)
def test_weights_that_would_not_be_the_leaders_are_refused(text: str, reason: str) -> None:
    with pytest.raises(SpaceError, match=reason):
        compile_text(text, LM)


def test_padding_of_each_of_two_inputs_masks_its_own_stream() -> None:
    two = Interface({"a": tokens(7, 9, may_pad=True), "b": tokens(5, 9, may_pad=True)}, None)
    text = (
        "let e = embed(dim=12); @b >> e >> softmax_attn(heads=3) as other; "
        "@a >> e >> softmax_attn(heads=3, kv=@other)"
    ).replace("; @a", " >> @a")
    compiled = compile_text(text, two)
    model = built(compiled)
    a, b = torch.randint(1, 9, (2, 2, 7))
    b = b[:, :5].clone()
    b[1, 3:] = 0
    with torch.no_grad():
        y = model(a, b)
        torch.testing.assert_close(y, interpret(compiled, model, [a, b]))
        inner = b[1:, :3]
        short = Interface({"a": tokens(7, 9), "b": tokens(3, 9)}, None)
        cut = load(compile_text(text, short).source)()
        cut.load_state_dict(model.state_dict())
        torch.testing.assert_close(cut(a[1:], inner), y[1:])
