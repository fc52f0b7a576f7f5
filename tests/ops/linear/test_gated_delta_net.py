"""Gated DeltaNet: open gates are DeltaNet, b = 0 only decays, starts of the rates."""

import torch
from torch.nn import functional as F

from ops.kernels.delta import chunked_delta
from ops.linear.delta_net import DeltaNet
from ops.linear.gated_delta_net import OP, GatedDeltaNet
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "gated_delta_net"
CASES = [
    Case(seq(63, 8, may_pad=True), {"heads": 6}),
    Case(seq(90, 12, may_pad=True), {"heads": 3, "expand_k": 1.0, "kernel": 2, "negative": True}),
    Case(seq(1, 6), {"heads": 1, "expand_k": 1.0, "expand_v": 1.0}),
]


def test_open_gates_are_delta_net() -> None:
    gated, plain = GatedDeltaNet(12, 3, 4, 4, 4, False).double(), DeltaNet(12, 3).double()
    with torch.no_grad():
        gated.decay.fill_(-1e4)  # a = 1
        gated.rates.weight[3:] = plain.beta.weight
    gated.qkv.load_state_dict(plain.qkv.state_dict())
    gated.conv.load_state_dict(plain.conv.state_dict())
    x = torch.randn(2, 70, 12, dtype=torch.float64)
    q, k, v, beta = plain.parts(x, plain.conv(plain.qkv(x)))
    close(gated(x), gated.merge(chunked_delta(q, k, v, beta, beta.new_zeros(1))[0], x))


def test_without_writing_a_state_only_decays() -> None:
    layer = GatedDeltaNet(12, 3, 4, 4, 1, False).double()
    torch.nn.init.constant_(layer.rates.weight[3:].detach(), -1e3)
    x = torch.ones(1, 1, 12, dtype=torch.float64)
    start, tail = torch.randn(1, 3, 4, 4, dtype=torch.float64), layer.conv.tail(1)
    _, (after, _) = layer.step(x, (start, tail))
    rate = -layer.decay.exp() * F.softplus(layer.rates(x)[0, 0, :3] + layer.pace)
    close(after, rate.exp()[:, None, None] * start)


def test_rates_start_as_published() -> None:
    torch.manual_seed(0)
    layer = GatedDeltaNet(8, 2000, 1, 1, 1, False)
    pace, decay = F.softplus(layer.pace), layer.decay.exp()
    assert 9.9e-4 < pace.min() < 1.1e-3
    assert 0.09 < pace.max() < 0.101
    assert 7.5 < decay.mean() < 8.5
    assert OP.params["expand_v"].default == 2 * OP.params["expand_k"].default
