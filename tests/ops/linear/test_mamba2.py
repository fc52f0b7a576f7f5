"""Mamba-2: the loop of its equations, the duality, the published start, simple GLA as a limit."""

import torch
from torch.nn import functional as F

from ops.kernels.chunked import chunked_decay
from ops.linear.mamba2 import Mamba2
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "mamba2"
CASES = [
    Case(seq(63, 9, may_pad=True), {"state": 5, "head_dim": 6}),
    Case(seq(70, 8, may_pad=True), {"state": 16, "head_dim": 4, "expand": 1, "kernel": 2}),
    Case(seq(1, 32), {}),
]


def test_it_is_the_loop_of_its_equations() -> None:
    torch.manual_seed(0)
    layer = Mamba2(9, state=5, head_dim=6).double()
    u = torch.randn(2, 30, 9, dtype=torch.float64)
    z, x, b, c, d = layer.into(u).split([18, 18, 5, 5, 3], -1)
    seen = torch.cat([x, b, c], -1)
    weight, bias = layer.conv.conv.weight[:, 0], layer.conv.conv.bias
    past = [F.pad(seen, (0, 0, 3 - r, 0))[:, :30] * weight[:, r] for r in range(4)]
    x, b, c = F.silu(torch.stack(past).sum(0) + bias).split([18, 5, 5], -1)
    x, delta = x.unflatten(-1, (3, 6)), F.softplus(d + layer.dt_bias)
    decay = torch.exp(-layer.rate_log.exp() * delta)
    state, parts = torch.zeros(2, 3, 5, 6, dtype=torch.float64), []
    for t in range(30):
        added = b[:, t, None, :, None] * (delta[:, t, :, None] * x[:, t])[:, :, None]
        state = decay[:, t, :, None, None] * state + added
        read = (c[:, t, None, :, None] * state).sum(-2)
        parts.append((read + layer.skip[:, None] * x[:, t]).flatten(1))
    o = torch.stack(parts, 1) * F.silu(z)
    close(layer(u), layer.out(F.rms_norm(o, (18,), layer.norm, 1e-5)))


def test_the_recurrence_is_masked_attention_of_shared_keys() -> None:
    layer = Mamba2(9, state=5, head_dim=6).double()
    u = torch.randn(2, 90, 9, dtype=torch.float64)
    z, seen, delta = layer.project(u)
    c, b, x, rate = layer.parts(layer.conv(seen), delta)
    total = rate.cumsum(-1)
    mask = (total[..., :, None] - total[..., None, :]).exp().tril()
    close(layer(u), layer.merge((c @ b.mT * mask) @ (delta[..., None] * x), x, z))


def test_without_skip_it_is_simple_gla_of_folded_keys() -> None:
    layer = Mamba2(9, state=5, head_dim=6).double()
    torch.nn.init.zeros_(layer.skip)
    u = torch.randn(2, 40, 9, dtype=torch.float64)
    z, seen, delta = layer.project(u)
    c, b, x, rate = layer.parts(layer.conv(seen), delta)
    o, _ = chunked_decay(c.expand(-1, 3, -1, -1), b * delta[..., None], x, rate)
    close(layer(u), layer.merge(o, x, z))


def test_it_starts_where_the_paper_does() -> None:
    torch.manual_seed(0)
    layer = Mamba2(512)
    assert layer.heads == 16
    assert layer.into.out_features == 2 * 1024 + 2 * 128 + 16
    rate, delta = layer.rate_log.exp(), F.softplus(layer.dt_bias)
    assert rate.min() >= 1
    assert rate.max() <= 16
    assert delta.min() >= 0.99e-3
    assert delta.max() <= 0.101
    assert layer.skip.eq(1).all()
