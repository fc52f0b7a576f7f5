"""Simple GLA: the quadratic form with one gate a head, and its limits."""

import pytest
import torch
from torch.nn import functional as F

from ops.kernels.diagonal import chunked_diagonal
from ops.linear.simple_gla import SimpleGatedAttention
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "simple_gla"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3}),
    Case(seq(90, 8, may_pad=True), {"kernel": None}),
    Case(seq(1, 6), {"heads": 1, "kernel": 1}),
]


@pytest.mark.parametrize("kernel", [None, 4])
def test_it_is_the_quadratic_form(kernel: int | None) -> None:
    torch.manual_seed(0)
    layer = SimpleGatedAttention(12, 3, kernel).double()
    x = torch.randn(2, 90, 12, dtype=torch.float64)
    raw = layer.qkv(x)
    if layer.conv is not None:
        filters = layer.conv.conv.weight[:, 0]
        past = [F.pad(raw, (0, 0, 3 - r, 0))[:, :90] * filters[:, r] for r in range(4)]
        raw = F.silu(torch.stack(past).sum(0))
    q, k, v = raw.unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    total = (F.logsigmoid(layer.decay(x)).mT / 16).cumsum(-1)
    decay = (total[..., :, None] - total[..., None, :]).exp().tril()
    o = (q @ k.mT / 2 * decay) @ v
    o = F.rms_norm(o, (4,), layer.norm, 1e-5).transpose(1, 2).flatten(2)
    close(layer(x), layer.out(o * F.silu(layer.gate(x))))


def test_open_gates_are_unnormalised_linear_attention() -> None:
    layer = SimpleGatedAttention(12, 3).double()
    torch.nn.init.zeros_(layer.decay.weight)
    torch.nn.init.constant_(layer.decay.bias, 1e4)
    x = torch.randn(2, 40, 12, dtype=torch.float64)
    assert layer.conv is not None
    q, k, v = layer.heads_of(layer.conv(layer.qkv(x)))
    close(layer(x), layer.merge((q @ k.mT).tril() @ v, x))


def test_a_constant_gate_is_the_decay_of_retention() -> None:
    layer = SimpleGatedAttention(12, 3).double()
    rates = 1 - 2.0 ** (-5 - torch.arange(3, dtype=torch.float64))
    torch.nn.init.zeros_(layer.decay.weight)
    layer.decay.bias.data.copy_((rates**16).logit())
    x = torch.randn(2, 40, 12, dtype=torch.float64)
    assert layer.conv is not None
    q, k, v = layer.heads_of(layer.conv(layer.qkv(x)))
    age = torch.arange(40)[:, None] - torch.arange(40)
    kept = (rates[:, None, None] ** age.clamp(min=0)).tril()
    close(layer(x), layer.merge((q @ k.mT * kept) @ v, x))


def test_it_is_gla_with_equal_gates() -> None:
    layer = SimpleGatedAttention(12, 3).double()
    x = torch.randn(2, 40, 12, dtype=torch.float64)
    assert layer.conv is not None
    q, k, v = layer.heads_of(layer.conv(layer.qkv(x)))
    g = layer.forget(x)[..., None].expand_as(k)
    close(layer(x), layer.merge(chunked_diagonal(q, k, v, g)[0], x))
