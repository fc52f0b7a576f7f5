"""minLSTM: the published log-space form, gates wide open and shut, and large gate inputs."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ops.kernels.scan import gate_terms, linear_scan
from ops.recurrent.min_lstm import MinLSTM
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "min_lstm"
CASES = [
    Case(seq(63, 6, may_pad=True)),
    Case(seq(21, 5), {"expansion": 3, "bias": False}),
    Case(seq(1, 4)),
]


def log_space(layer: MinLSTM, x: Tensor) -> Tensor:
    """The paper's parallel form, h_0 left out."""
    forget, enter, u = layer.gates(x).chunk(3, -1)
    d = F.softplus(-forget) - F.softplus(-enter)
    log_c = torch.where(u >= 0, (F.relu(u) + 0.5).log(), -F.softplus(-u))
    log_b = -F.softplus(-d) + log_c
    total = (-F.softplus(d)).cumsum(1)
    return (total + torch.logcumsumexp(log_b - total, 1)).exp()


def gated(forget: float, enter: float) -> MinLSTM:
    layer = MinLSTM(6, 6).double()
    with torch.no_grad():
        layer.gates.weight[:12] = 0.0
        layer.gates.bias[:6], layer.gates.bias[6:12] = forget, enter
    return layer


def test_it_is_the_log_space_form() -> None:
    layer = MinLSTM(6, 6).double()
    x = torch.randn(2, 90, 6, dtype=torch.float64)
    close(layer(x), log_space(layer, x))


def test_the_shares_are_the_normalised_gates() -> None:
    layer, x = MinLSTM(6, 6).double(), torch.randn(2, 9, 6, dtype=torch.float64)
    forget, enter, _ = layer.gates(x).sigmoid().chunk(3, -1)
    close(gate_terms(layer.gates(x), "lstm")[0], forget / (forget + enter))


def test_a_shut_input_gate_keeps_the_state_and_a_shut_forget_gate_replaces_it() -> None:
    x, before = torch.randn(2, 1, 6, dtype=torch.float64), torch.rand(2, 6, dtype=torch.float64)
    close(gated(60.0, -60.0).step(x, before)[1], before)
    replaced = gated(-60.0, 60.0)
    u = replaced.gates(x).chunk(3, -1)[2]
    close(replaced.step(x, before)[0], torch.where(u >= 0, u.relu() + 0.5, u.sigmoid()))


@pytest.mark.parametrize("size", [50.0, 1e4])
def test_large_gate_inputs_stay_finite(size: float) -> None:
    layer, x = MinLSTM(6, 6), torch.randn(2, 63, 6, requires_grad=True)
    y = layer(size * x)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_the_scan_is_the_loop_over_a_long_sequence() -> None:
    layer, x = MinLSTM(3, 3), torch.randn(1, 4096, 3)
    a, b = gate_terms(layer.gates(x), "lstm")
    h, rows = torch.zeros(1, 3), []
    for t in range(4096):
        h = a[:, t] * h + b[:, t]
        rows.append(h)
    close(linear_scan(a, b), torch.stack(rows, 1))
