"""Lightning attention: the quadratic form, the fixed slopes, and what the norm makes invariant."""

import torch

from ops.kernels.positions import alibi_slopes
from ops.linear.lightning import Lightning
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "lightning"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3}),
    Case(seq(90, 8, may_pad=True), {"heads": 4}),
    Case(seq(1, 6), {"heads": 1}),
]


def test_it_is_the_quadratic_form() -> None:
    torch.manual_seed(0)
    layer = Lightning(12, heads=3).double()
    x = torch.randn(2, 90, 12, dtype=torch.float64)
    q, k, v, u = layer.project(x)
    age = torch.arange(90)[:, None] - torch.arange(90)
    decay = torch.exp(-alibi_slopes(3).double()[:, None, None] * age).tril()
    o = ((q @ k.mT * decay) @ v).transpose(1, 2).flatten(2)
    o = o / torch.sqrt(o.square().mean(-1, keepdim=True) + 1e-6)
    close(layer(x), layer.out(o * u))


def test_without_decay_it_is_plain_linear_attention() -> None:
    layer = Lightning(12, heads=3).double()
    layer.slopes.zero_()
    x = torch.randn(2, 40, 12, dtype=torch.float64)
    q, k, v, u = layer.project(x)
    close(layer(x), layer.merge((q @ k.mT).tril() @ v, u))


def test_strong_decay_leaves_the_token_itself() -> None:
    layer = Lightning(12, heads=3).double()
    layer.slopes.fill_(60.0)
    x = torch.randn(2, 40, 12, dtype=torch.float64)
    q, k, v, u = layer.project(x)
    close(layer(x), layer.merge((q * k).sum(-1, keepdim=True) * v, u))


def test_scaling_values_changes_nothing_and_scaling_the_gate_scales() -> None:
    layer = Lightning(12, heads=3).double()
    layer.eps = 0.0
    x = torch.randn(2, 40, 12, dtype=torch.float64)
    before = layer(x)
    with torch.no_grad():
        layer.qkvu.weight[24:36] *= 7.0
        close(layer(x), before)
        layer.qkvu.weight[36:] *= 3.0
        close(layer(x), 3.0 * before)


def test_the_released_block_of_one_token() -> None:
    layer = Lightning(6, heads=1).double()
    x = torch.randn(2, 1, 6, dtype=torch.float64)
    q, k, v, u = layer.project(x)
    o = ((q * k).sum(-1, keepdim=True) * v)[:, 0]
    close(layer(x), layer.out(torch.nn.functional.rms_norm(o, (6,), eps=1e-6) * u))
