"""Gated linear attention: its limits are plain linear attention and one decay a head."""

import torch
from torch.nn import functional as F

from ops.kernels.chunked import chunked_decay
from ops.linear.gla import GatedLinearAttention
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "gla"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3}),
    Case(seq(21, 8, may_pad=True), {"heads": 4, "expand_k": 1.0, "expand_v": 2.0}),
    Case(seq(1, 6), {"heads": 1}),
]


def test_open_gates_are_unnormalised_linear_attention() -> None:
    layer = GatedLinearAttention(12, 3, 2, 4).double()
    torch.nn.init.zeros_(layer.decay.weight)
    torch.nn.init.constant_(layer.decay.bias, 1e4)
    x = torch.randn(2, 40, 12, dtype=torch.float64)
    q, k, v, _, gate = layer.project(x)
    close(layer(x), layer.merge((q @ k.mT).tril() @ v, gate))


def test_equal_gates_of_a_head_are_one_decay() -> None:
    layer = GatedLinearAttention(12, 3, 2, 4).double()
    with torch.no_grad():
        layer.decay.weight.view(3, 2, 16)[:, 1] = layer.decay.weight.view(3, 2, 16)[:, 0]
        layer.decay.bias.view(3, 2)[:, 1] = layer.decay.bias.view(3, 2)[:, 0]
    x = torch.randn(2, 40, 12, dtype=torch.float64)
    q, k, v, g, gate = layer.project(x)
    close(layer(x), layer.merge(chunked_decay(q, k, v, g[..., 0])[0], gate))
    close(g, heads_of(F.logsigmoid(layer.decay(layer.low(x))) / 16))


def heads_of(g: torch.Tensor) -> torch.Tensor:
    return g.unflatten(-1, (3, -1)).transpose(1, 2)
