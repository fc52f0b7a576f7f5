"""Softmax attention: against the written-out formula, its grouped forms, positions and refusals."""

import math

import pytest
import torch
from torch import Tensor

from einspace.compile import compile_text
from einspace.interface import Interface
from grammar.errors import SpaceError
from ops.attention.engine import split_heads
from ops.attention.softmax import OP, SoftmaxAttention
from ops.kernels.positions import alibi_slopes, rotary
from ops.kernels.relative import lrpe, t5_bucket, xpos_scale
from ops.spec import Mismatch, seq
from tests.ops.case import Case, close, complete

OP_NAME = "softmax_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "causal": True}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "bias": True, "pos": "alibi"}),
    Case(seq(21, 12), {"heads": 6, "kv_heads": 2, "causal": True, "pos": "rope", "qk_norm": True}),
    Case(seq(21, 12), {"heads": 3, "kv_heads": 1, "causal": True, "pos": "alibi"}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "pos": "rope"}),
    Case(seq(9, 12), {"heads": 3, "kv_dim": 10}, inputs=(seq(14, 10),)),
    Case(seq(9, 12, may_pad=True), {"heads": 6, "kv_heads": 3}, inputs=(seq(5, 12),)),
    Case(seq(9, 12), {"heads": 3, "gate": "channel"}, inputs=(seq(5, 12, may_pad=True),)),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "pos": "t5", "gate": "head", "scale": 1.0}),
    Case(seq(21, 12), {"heads": 3, "causal": True, "pos": "t5", "sink": "learned", "cap": 5.0}),
    Case(seq(21, 12, may_pad=True), {"heads": 6, "kv_heads": 3, "causal": True, "pos": "xpos"}),
    Case(seq(21, 12), {"heads": 6, "kv_heads": 2, "causal": True, "pos": "lrpe", "sink": "one"}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "pos": "lrpe", "gate": "channel"}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "causal": True, "pos": "learned"}),
    Case(seq(21, 12), {"heads": 3, "pos": "learned", "sink": "one"}),
]


def written_out(layer: SoftmaxAttention, x: Tensor, kv: Tensor) -> Tensor:
    """The formula, head by head."""
    q, (k, v) = layer.q(x), layer.kv(kv).chunk(2, -1)
    out = []
    for head in range(layer.heads):
        group = head * layer.kv_heads // layer.heads
        mine, theirs = (slice(n * layer.width, (n + 1) * layer.width) for n in (head, group))
        logits = q[..., mine] @ k[..., theirs].mT / math.sqrt(layer.width)
        if layer.causal:
            logits = logits.masked_fill(torch.ones_like(logits).triu(1).bool(), float("-inf"))
        out.append(logits.softmax(-1) @ v[..., theirs])
    return layer.out(torch.cat(out, -1))


@pytest.mark.parametrize("kv_heads", [None, 3, 2, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_it_is_the_formula(kv_heads: int | None, causal: bool) -> None:
    torch.manual_seed(0)
    layer = SoftmaxAttention(12, heads=6, kv_heads=kv_heads, causal=causal).double()
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    close(layer.alone(x), written_out(layer, x, x))


def test_cross_attention_is_the_formula() -> None:
    torch.manual_seed(0)
    layer = SoftmaxAttention(12, heads=3, kv_dim=10).double()
    x, kv = torch.randn(2, 9, 12).double(), torch.randn(2, 5, 10).double()
    close(layer.alone(x, kv=kv), written_out(layer, x, kv))


def test_without_positions_order_does_not_matter() -> None:
    layer = SoftmaxAttention(12, heads=3).double()
    x, order = torch.randn(2, 9, 12).double(), torch.randperm(9)
    close(layer.alone(x[:, order]), layer.alone(x)[:, order])


def test_rotary_logits_depend_on_the_distance_only() -> None:
    q, k = torch.randn(2, 1, 5, 8, dtype=torch.float64)
    here, there = torch.arange(5), torch.arange(5) + 1000
    close(rotary(q, here) @ rotary(k, here).mT, rotary(q, there) @ rotary(k, there).mT)


def test_alibi_slopes_of_a_power_of_two_and_between() -> None:
    close(alibi_slopes(4), torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8]))
    close(alibi_slopes(3), torch.tensor([2.0**-4, 2.0**-8, 2.0**-2]))


def test_alibi_with_equal_logits_is_a_geometric_average() -> None:
    layer = SoftmaxAttention(4, heads=1, causal=True, pos="alibi").double()
    torch.nn.init.zeros_(layer.q.weight)
    x = torch.randn(1, 3, 4, dtype=torch.float64)
    weights = torch.exp(-layer.slopes[0] * torch.tensor([2.0, 1.0, 0.0])).double()
    v = layer.kv(x)[..., 4:]
    close(layer.alone(x)[0, 2], layer.out((weights / weights.sum()) @ v[0]))


def test_a_sample_of_padding_only_stays_finite() -> None:
    for pos in ("none", "alibi", "rope"):
        for causal in (False, True):
            layer = SoftmaxAttention(12, heads=3, causal=causal, pos=pos)
            x = torch.randn(2, 5, 12, requires_grad=True)
            y = layer.alone(x, mask=torch.tensor([[True] * 5, [False] * 5]))
            y.sum().backward()
            assert y.isfinite().all()
            assert x.grad is not None
            assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("params", "kv", "reason"),
    [
        ({"heads": 5}, None, "heads=5 does not divide"),
        ({"heads": 6, "kv_heads": 4}, None, "kv_heads=4 does not divide heads=6"),
        ({"heads": 4, "pos": "rope"}, None, "even head width"),
        ({"heads": 3, "causal": True}, seq(5, 12), "no causal order"),
        ({"heads": 3}, seq(5, 10), "kv has width 10"),
        ({"heads": 3, "pos": "xpos"}, None, "grows with keys"),
        ({"heads": 3, "kv_dim": 10}, None, "without kv"),
    ],
)
def test_refusals(params: dict[str, object], kv: object, reason: str) -> None:
    with pytest.raises(Mismatch, match=reason):
        OP.shape(seq(9, 12), kv, **complete(OP, params))


def twins(first: dict[str, object], second: dict[str, object]) -> list[SoftmaxAttention]:
    """Two layers of different settings with the same weights where they share names."""
    torch.manual_seed(0)
    layers = [SoftmaxAttention(12, heads=3, **p).double() for p in (first, second)]  # type: ignore[arg-type]  # settings
    layers[1].load_state_dict(layers[0].state_dict(), strict=False)
    return layers


def x_of(length: int = 9) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, length, 12, dtype=torch.float64)


@pytest.mark.parametrize("pos", ["none", "rope", "xpos", "lrpe"])
@pytest.mark.parametrize("sink", ["none", "one", "learned"])
def test_the_exports_make_the_weights(pos: str, sink: str) -> None:
    layer = SoftmaxAttention(12, 6, kv_heads=2, causal=True, pos=pos, sink=sink).double()
    y, q, k, lse = layer(x_of())
    q, k = q.unflatten(-1, (6, -1)).transpose(1, 2), k.unflatten(-1, (2, -1)).transpose(1, 2)
    weights = (q @ k.repeat_interleave(3, 1).mT - lse.mT[..., None]).exp().tril()
    v = layer.kv(x_of())[..., 4:].unflatten(-1, (2, -1)).transpose(1, 2)
    mixed = weights @ v.repeat_interleave(3, 1)
    close(layer.out(mixed.transpose(1, 2).flatten(2)), y)


def test_softmax_off_by_one_is_a_further_empty_key() -> None:
    plain, one = twins({}, {"sink": "one"})
    _, _, _, lse = plain(x_of())
    share = lse.exp() / (1 + lse.exp())
    q = split_heads(plain.q(x_of()), 3)
    k, v = (split_heads(z, 3) for z in plain.kv(x_of()).chunk(2, -1))
    mixed = (q @ k.mT / 2).softmax(-1) @ v * share.mT[..., None]
    close(one.alone(x_of()), one.out(mixed.transpose(1, 2).flatten(2)))


def test_a_sink_of_minus_infinity_is_plain_softmax() -> None:
    plain, sink = twins({"causal": True}, {"causal": True, "sink": "learned"})
    assert sink.sink is not None
    torch.nn.init.constant_(sink.sink, -1e9)
    close(sink.alone(x_of()), plain.alone(x_of()))


def test_a_wide_cap_bends_nothing_and_a_narrow_one_makes_the_mean() -> None:
    plain, wide = twins({}, {"cap": 1e4})
    torch.testing.assert_close(wide.alone(x_of()), plain.alone(x_of()), rtol=1e-6, atol=1e-6)
    _, narrow = twins({}, {"cap": 1e-3})
    mean = plain.out(plain.kv(x_of())[..., 12:].mean(1, keepdim=True)).expand(-1, 9, -1)
    torch.testing.assert_close(narrow.alone(x_of()), mean, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("kind", ["head", "channel"])
def test_a_gate_without_weights_halves(kind: str) -> None:
    plain, gated = twins({}, {"gate": kind})
    assert gated.gate is not None
    torch.nn.init.zeros_(gated.gate.weight)
    close(gated.alone(x_of()), plain.alone(x_of()) / 2)


def test_keys_at_padding_of_another_sequence_do_not_count() -> None:
    layer = SoftmaxAttention(12, heads=3).double()
    kv = torch.randn(2, 7, 12).double()
    mask = (torch.arange(7) < 4).expand(2, 7)
    cut = layer.alone(x_of(), kv=kv[:, :4])
    close(layer.alone(x_of(), kv=kv, kv_mask=mask), cut)
    close(layer(x_of(), kv=kv, kv_mask=mask)[0], cut)
    none = torch.zeros(2, 7, dtype=torch.bool)
    close(layer.alone(x_of(), kv=kv, kv_mask=none), torch.zeros_like(cut))
    close(layer(x_of(), kv=kv, kv_mask=none)[0], torch.zeros_like(cut))


def test_buckets_are_those_of_t5() -> None:
    gap = torch.tensor([-200, -8, -7, -1, 0, 1, 7, 8, 15, 16, 31, 63, 127, 200])
    both = [31, 24, 23, 17, 0, 1, 7, 8, 9, 10, 11, 13, 15, 15]
    causal = [0, 0, 0, 0, 0, 1, 7, 8, 15, 16, 21, 26, 31, 31]
    assert t5_bucket(gap, False).tolist() == both
    assert t5_bucket(gap, True).tolist() == causal


@pytest.mark.parametrize("pos", ["t5", "learned"])
def test_a_constant_table_changes_nothing(pos: str) -> None:
    plain, biased = twins({}, {"pos": pos})
    torch.nn.init.constant_(biased.table, 3.0)
    close(biased.alone(x_of(150)), plain.alone(x_of(150)))


@pytest.mark.parametrize("causal", [False, True])
def test_a_learned_table_of_slopes_is_alibi(causal: bool) -> None:
    alibi, learned = twins({"pos": "alibi", "causal": causal}, {"pos": "learned", "causal": causal})
    far = torch.arange(129) if causal else torch.arange(-128, 129).abs()
    with torch.no_grad():
        learned.table.copy_(-far[:, None] * alibi_slopes(3))
    close(learned.alone(x_of()), alibi.alone(x_of()))


def test_lrpe_without_angles_is_no_position_and_it_sees_distances_only() -> None:
    plain, turned = twins({}, {"pos": "lrpe"})
    torch.nn.init.zeros_(turned.theta)
    close(turned.alone(x_of()), plain.alone(x_of()))
    q, k, theta = torch.randn(3, 2, 5, 4).double()
    here, there = torch.arange(5), torch.arange(5) + 1000
    theta = theta[:, 0]
    close(
        lrpe(q, here, theta) @ lrpe(k, here, theta).mT,
        lrpe(q, there, theta) @ lrpe(k, there, theta).mT,
    )


def test_xpos_is_rotary_times_a_decay_of_the_distance() -> None:
    q, k = torch.randn(2, 1, 5, 8, dtype=torch.float64)
    place = torch.arange(5) + 300
    both = (rotary(q, place) * xpos_scale(place, 8, 1, q)) @ (
        rotary(k, place) * xpos_scale(place, 8, -1, k)
    ).mT
    gap = (place[:, None] - place)[..., None]
    base = ((torch.arange(0, 8, 2) / 8 + 0.4) / 1.4).double().repeat(2)
    parts = rotary(q, place)[0, :, None] * rotary(k, place)[0, None] * base ** (gap / 512)
    close(both[0], parts.sum(-1))


def test_exports_are_refused_where_they_do_not_make_the_weights() -> None:
    text = "softmax_attn(heads=3, causal, pos={0}) as lead >> @lead.q"
    x = Interface({"x": seq(9, 12)})
    assert str(compile_text(text.format("none"), x).graph.output_type) == "seq[9,12]"
    with pytest.raises(SpaceError, match="exports nothing here"):
        compile_text(text.format("alibi"), x)


@pytest.mark.parametrize("pos", ["none", "rope", "xpos"])
def test_without_padding_or_added_positions_no_table_of_pairs_is_made(
    monkeypatch: pytest.MonkeyPatch, pos: str
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a table of T x T pairs")

    layer = SoftmaxAttention(dim=8, heads=2, causal=True, pos=pos)
    monkeypatch.setattr(layer, "pairs", refuse)
    assert layer.alone(torch.randn(1, 3, 8)).shape == (1, 3, 8)
    with pytest.raises(AssertionError, match="pairs"):
        layer.alone(torch.randn(1, 3, 8), mask=torch.ones(1, 3, dtype=torch.bool))
