"""HGRN-2: the loop of its equations, its bound, and gates that are shut or open."""

import torch
from torch.nn import functional as F

from ops.linear.hgrn2 import HGRN2
from ops.spec import seq
from tests.ops.case import Case, bench, close

OP_NAME = "hgrn2"
CASES = [
    Case(seq(63, 12, may_pad=True), {"head_dim": 4}),
    Case(seq(21, 12, may_pad=True), {"head_dim": 6, "depth": 4}, layer=2),
    Case(seq(1, 6), {"head_dim": 2}),
]


def test_it_is_the_loop_of_its_equations() -> None:
    torch.manual_seed(0)
    for bound in (0.0, 0.5):
        layer = HGRN2(12, 4, bound).double()
        x = torch.randn(2, 40, 12, dtype=torch.float64)
        q, f, v = layer.qfv(x).unflatten(-1, (3, 3, 4)).unbind(2)
        f, q = bound + (1 - bound) * f.sigmoid(), F.silu(q)
        state, parts = torch.zeros(2, 3, 4, 4, dtype=torch.float64), []
        for t in range(40):
            state = f[:, t, :, :, None] * state + (1 - f[:, t])[..., None] * v[:, t, :, None]
            parts.append((q[:, t, :, :, None] * state).sum(-2).flatten(1))
        o = F.rms_norm(torch.stack(parts, 1), (12,), layer.norm, 1e-5)
        close(layer(x), layer.out(o))


def shut(layer: HGRN2, gate: float) -> HGRN2:
    """The layer with the forget gates' logits at `gate` for x whose first channel is 1."""
    with torch.no_grad():
        layer.qfv.weight[12:24] = 0.0
        layer.qfv.weight[12:24, 0] = gate
    return layer


def test_shut_gates_leave_the_token_itself() -> None:
    layer = shut(HGRN2(12, 4).double(), -1e3)
    x = torch.randn(2, 40, 12, dtype=torch.float64)
    x[..., 0] = 1.0
    q, _, v, _ = layer.project(x)
    close(layer(x), layer.merge(q.sum(-1, keepdim=True) * v))


def test_open_gates_let_nothing_in_and_stay_finite_in_the_gradient() -> None:
    for gate in (1e3, -1e3):
        layer = shut(HGRN2(12, 4, 0.25).double(), gate)
        x = torch.randn(2, 40, 12, dtype=torch.float64)
        x[..., 0] = 1.0
        x.requires_grad_()
        y = layer(x)
        y.sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert (y.abs().max() < 1e-9) == (gate > 0)


def test_bounds_rise_with_the_layer_and_the_first_has_none() -> None:
    found = []
    for layer in range(5):
        case = bench(OP_NAME, Case(seq(5, 12), {"head_dim": 4, "depth": 4}, layer=layer))
        found.append(case.op.init(*case.case.types, **case.params)["bound"])
    assert found == [0.0, 0.25, 0.5, 0.75, 0.75]
