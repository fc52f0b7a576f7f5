"""minGRU: the published log-space form, gates wide open and shut, and large gate inputs."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.recurrent.min_gru import MinGRU
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "min_gru"
CASES = [
    Case(seq(63, 6, may_pad=True)),
    Case(seq(21, 5), {"expansion": 3, "bias": False}),
    Case(seq(1, 4)),
]


def log_space(layer: MinGRU, x: Tensor) -> Tensor:
    """The paper's parallel form, h_0 left out."""
    k, u = layer.gates(x).chunk(2, -1)
    log_b = -F.softplus(-k) + torch.where(u >= 0, (F.relu(u) + 0.5).log(), -F.softplus(-u))
    total = (-F.softplus(k)).cumsum(1)
    return (total + torch.logcumsumexp(log_b - total, 1)).exp()


def test_it_is_the_log_space_form() -> None:
    torch.manual_seed(0)
    layer = MinGRU(6, 6).double()
    x = torch.randn(2, 90, 6, dtype=torch.float64)
    close(layer(x), log_space(layer, x))


def gate_at(value: float) -> MinGRU:
    layer = MinGRU(6, 6).double()
    with torch.no_grad():
        layer.gates.weight[:6], layer.gates.bias[:6] = 0.0, value
    return layer


def test_an_open_gate_forgets_and_a_shut_one_keeps() -> None:
    x = torch.randn(2, 30, 6, dtype=torch.float64)
    layer = gate_at(1e4)
    c = layer.gates(x)[..., 6:]
    close(layer(x), torch.where(c >= 0, c + 0.5, c.sigmoid()))
    _, kept = gate_at(-1e4).step(x[:, :1], x[:, 1])
    close(kept, x[:, 1])


def test_large_gate_inputs_stay_finite() -> None:
    layer = MinGRU(6, 6)
    x = (50 * torch.randn(2, 300, 6)).requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()
