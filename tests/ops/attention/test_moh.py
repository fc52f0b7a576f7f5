"""Mixture of heads: plain limits, sums of gates, the balance loss, untouched inactive heads."""

from typing import Any

import pytest
import torch
from torch import nn

from einspace.compile import compile_text
from einspace.interface import Interface
from einspace.load import load
from ops.attention.moh import OP, MixtureOfHeads
from ops.spec import Mismatch, seq, tokens
from tests.ops.attention.plain import data, plain
from tests.ops.case import Case, close, complete

OP_NAME = "moh_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 6, "causal": True, "shared": 2, "active": 2}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "norm": "paper", "pos": "rope"}),
    Case(seq(21, 12), {"heads": 6, "shared": 0, "active": 3, "norm": "binary", "causal": True}),
    Case(seq(21, 12), {"heads": 3, "shared": 3, "active": 0}),
    Case(seq(21, 12), {"heads": 3, "shared": 0, "active": 2, "norm": "paper"}),
]


def layer_of(**settings: Any) -> MixtureOfHeads:
    torch.manual_seed(0)
    return MixtureOfHeads(12, 6, **settings).double()


def silent(layer: MixtureOfHeads) -> MixtureOfHeads:
    """All routers without weights."""
    for part in (layer.route, layer.share, layer.stage):
        if part is not None:
            nn.init.zeros_(part.weight)
    return layer


@pytest.mark.parametrize(
    "settings",
    [
        {"shared": 2, "active": 4},
        {"shared": 1, "active": 5, "causal": True},
        {"shared": 0, "active": 6},
        {"shared": 6, "active": 0},
    ],
)
def test_all_heads_active_and_silent_routers_are_plain(settings: dict[str, Any]) -> None:
    layer = silent(layer_of(**settings))
    y, aux = layer(data())
    close(y, plain(layer)(data()))
    close(aux, torch.tensor(0.01 * settings["active"], dtype=torch.float64))


def test_binary_gates_of_all_heads_are_plain() -> None:
    layer = layer_of(shared=2, active=4, norm="binary")
    close(layer(data())[0], plain(layer)(data()))


def test_gates_sum_as_published_and_exactly_active_heads_are_open() -> None:
    layer = layer_of(shared=2, active=3)
    g, _ = layer.gates(data())
    assert layer.stage is not None
    stage = 2 * layer.stage(data()).softmax(-1)
    close(g[..., :2].sum(-1), 2 * stage[..., 0])
    close(g[..., 2:].sum(-1), 3 * stage[..., 1])
    assert (g[..., 2:] > 0).sum(-1).eq(3).all()


def test_with_all_routed_heads_open_it_is_the_dense_mixture() -> None:
    layer = layer_of(shared=0, active=6)
    assert layer.route is not None
    p = layer.route(data()).softmax(-1)
    mixed = layer.mix(data(), None) * (6 * p).mT[..., None]
    close(layer(data())[0], layer.merge(mixed))


def test_a_collapsed_router_costs_as_many_as_there_are_routed_heads() -> None:
    layer = layer_of(shared=1, active=1, balance=1.0)
    assert layer.route is not None
    with torch.no_grad():
        layer.route.weight.zero_()
        layer.route.weight[2, 0] = 100.0
    x = data()
    x[..., 0] = 1.0
    close(layer(x)[1], torch.tensor(5.0).double())


def test_the_query_of_a_closed_head_does_not_matter() -> None:
    layer = layer_of(shared=1, active=1)
    g, _ = layer.gates(data())
    before = layer.mix(data(), None)
    with torch.no_grad():
        layer.q.weight[4:6] = 0.0
    after = layer.gated(layer.mix(data(), None), g)
    closed = g[..., 2] == 0
    assert closed.any()
    close(after[closed], layer.gated(before, g)[closed])


def test_gradients_of_the_router_come_from_the_gates_and_from_the_balance() -> None:
    for balance, norm in ((0.0, "code"), (0.0, "binary"), (1.0, "code")):
        layer = layer_of(shared=1, active=2, norm=norm, balance=balance)
        y, aux = layer(data())
        (y.square().sum() if balance == 0 else aux).backward()
        assert layer.route is not None
        assert layer.route.weight.grad is not None
        assert layer.route.weight.grad.any()


def test_the_loss_of_every_layer_reaches_the_model_and_decoding_goes_on_without() -> None:
    text = "embed(dim=12) >> residual(rms_norm >> moh_attn(heads=3, causal)) * 3 >> head"
    compiled = compile_text(text, Interface({"tokens": tokens(9, 7)}, seq(9, 7), causal=True))
    torch.manual_seed(0)
    model = load(compiled.source)()
    x = torch.randint(1, 7, (2, 9))
    y, aux, _ = model.forward_aux(x)
    assert 0.03 - 1e-6 <= aux.item() <= 0.06 + 1e-6
    aux.backward()
    state, parts = model.init_state(2, 9), []
    for t in range(9):
        now, state = model.step(x[:, t : t + 1], state)
        parts.append(now)
    torch.testing.assert_close(torch.cat(parts, 1), y, rtol=1e-4, atol=1e-5)


def test_more_heads_than_there_are_is_refused() -> None:
    for settings, reason in (
        ({"shared": 2, "active": 2}, "more than heads=3"),
        ({"shared": 0, "active": 0}, "no head is ever active"),
    ):
        with pytest.raises(Mismatch, match=reason):
            OP.shape(seq(9, 12), **complete(OP, {"heads": 3, **settings}))
