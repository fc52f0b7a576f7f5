"""Linear attention: the normalised kernel average, with and without order."""

import torch
from torch.nn import functional as F

from ops.linear.attn import LinearAttention
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "linear_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "causal": True}),
    Case(seq(90, 12), {"heads": 1, "causal": True}),
    Case(seq(63, 12, may_pad=True), {"heads": 3}),
]


def test_it_is_the_kernel_average() -> None:
    torch.manual_seed(0)
    for causal in (False, True):
        layer = LinearAttention(12, heads=3, causal=causal).double()
        x = torch.randn(2, 90, 12, dtype=torch.float64)
        q, k, v = layer.qkv(x).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
        weights = (F.elu(q) + 1) @ (F.elu(k) + 1).mT
        weights = weights.tril() if causal else weights
        y = weights @ v / (weights.sum(-1, keepdim=True) + 1e-6)
        close(layer(x), layer.out(y.transpose(1, 2).flatten(2)))


def test_equal_values_come_back() -> None:
    layer = LinearAttention(12, heads=3, causal=True).double()
    x = torch.randn(1, 1, 12, dtype=torch.float64).expand(1, 40, 12)
    close(layer(x), layer.out(layer.qkv(x)[..., 24:]), scale=1e4)


def test_the_last_token_sees_as_much_in_both_forms() -> None:
    layer = LinearAttention(12, heads=3, causal=True).double()
    x = torch.randn(2, 33, 12, dtype=torch.float64)
    ordered = layer(x)[:, -1]
    layer.causal = False
    close(ordered, layer(x)[:, -1])
