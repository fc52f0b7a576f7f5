"""TransNormerLLM attention: quadratic form, cosine positions, schedules, norm and gate."""

import pytest
import torch
from torch.nn import functional as F

from ops.kernels.positions import alibi_slopes
from ops.linear.lightning import Lightning
from ops.linear.transnormer import TransNormerAttention
from ops.spec import seq
from tests.ops.case import Case, bench, close

OP_NAME = "transnormer_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3}),
    Case(seq(90, 8, may_pad=True), {"depth": 4, "gate": False}, layer=3),
    Case(seq(63, 12), {"heads": 3, "lrpe": "all", "decay": "linear", "act": "elu"}, layer=1),
    Case(seq(1, 6), {"heads": 1, "lrpe": "none", "decay": "none", "act": "none"}),
]


def made(layer: int = 0, **params: object) -> TransNormerAttention:
    case = bench(OP_NAME, Case(seq(5, 12), {"heads": 3, **params}, layer=layer))
    module = case.build(dtype=torch.float64)
    assert isinstance(module, TransNormerAttention)
    return module


def test_it_is_the_quadratic_form_with_cosines_of_the_distance() -> None:
    layer = made()
    assert layer.theta is not None
    layer.slopes = alibi_slopes(3).double()
    x = torch.randn(2, 90, 12, dtype=torch.float64)
    q, k, v, u = layer.mix(x).chunk(4, -1)
    q, k, v = (z.unflatten(-1, (3, 4)).transpose(1, 2) for z in (F.silu(q), F.silu(k), v))
    age = torch.arange(90)[:, None] - torch.arange(90)
    turned = torch.cos(age[..., None] * layer.theta[:, None, None])
    scores = torch.einsum("bhtc,bhsc,htsc->bhts", q, k, turned)
    decay = torch.exp(-layer.slopes[:, None, None] * age).tril()
    o = ((scores * decay) @ v).transpose(1, 2).flatten(2)
    close(layer(x), layer.out(F.rms_norm(o, (12,), eps=1e-6) * u))


def test_zero_angles_are_no_positions_and_that_is_lightning() -> None:
    layer, other = made(), Lightning(12, heads=3).double()
    assert layer.theta is not None
    torch.nn.init.zeros_(layer.theta)
    other.qkvu.load_state_dict(layer.mix.state_dict())
    other.out.load_state_dict(layer.out.state_dict())
    x = torch.randn(2, 40, 12, dtype=torch.float64)
    close(layer(x), other(x))


def test_only_differences_of_positions_matter() -> None:
    layer = made(decay="none")
    x = torch.randn(2, 20, 12, dtype=torch.float64)
    first, second = (layer.project(x, torch.arange(20) + s) for s in (0, 1000))
    close(first[0] @ first[1].mT, second[0] @ second[1].mT)


def test_without_decay_and_positions_it_is_plain_linear_attention() -> None:
    layer = made(decay="none", lrpe="none")
    x = torch.randn(2, 40, 12, dtype=torch.float64)
    q, k, v, u = layer.project(x, torch.arange(40))
    close(layer(x), layer.merge((q @ k.mT).tril() @ v, u))


def test_strong_decay_leaves_the_token_itself() -> None:
    layer = made()
    layer.slopes.fill_(60.0)
    x = torch.randn(2, 40, 12, dtype=torch.float64)
    q, k, v, u = layer.project(x, torch.arange(40))
    close(layer(x), layer.merge((q * k).sum(-1, keepdim=True) * v, u))


def test_scaling_values_changes_nothing_and_scaling_the_gate_scales() -> None:
    layer = made()
    layer.eps = 0.0
    x = torch.randn(2, 40, 12, dtype=torch.float64)
    before = layer(x)
    with torch.no_grad():
        layer.mix.weight[24:36] *= 7.0
        close(layer(x), before)
        layer.mix.weight[36:] *= 3.0
        close(layer(x), 3.0 * before)


@pytest.mark.parametrize(
    ("decay", "layer", "expected"),
    [
        ("alibi", 0, alibi_slopes(3) * (1 + 1e-5)),
        ("alibi", 3, alibi_slopes(3) * 1e-5),
        ("linear", 0, torch.tensor([8 / 3, 16 / 3, 8.0])),
        ("linear", 3, torch.tensor([8 / 3, 16 / 3, 8.0]) / 4),
    ],
)
def test_slopes_fade_with_the_layer(decay: str, layer: int, expected: torch.Tensor) -> None:
    close(made(layer, decay=decay, depth=4).slopes.float(), expected)


def test_one_layer_alone_does_not_divide_by_zero() -> None:
    close(made(0, depth=1).slopes.float(), alibi_slopes(3) * (1 + 1e-5))


def test_only_the_first_layer_has_cosine_positions_by_default() -> None:
    assert [made(n).theta is not None for n in range(3)] == [True, False, False]
    assert made(2, lrpe="all").theta is not None


def test_angles_run_over_all_heads() -> None:
    theta = made().theta
    assert theta is not None
    expected = 10000.0 ** (-2 * torch.arange(12) / 12)
    close(theta.flatten().float(), expected)


def test_the_state_after_a_prefix_continues_it() -> None:
    layer, x = made(), torch.randn(2, 21, 12, dtype=torch.float64)
    state = layer.init_state(2, 21)
    for t in range(21):
        y, state = layer.step(x[:, t : t + 1], state)
    close(y, layer(x)[:, 20:])
