"""Nystrom attention: all tokens as landmarks give softmax attention; the inverse converges."""

import torch

from ops.attention.nystrom import NystromAttention, iterated_inverse
from ops.attention.softmax import SoftmaxAttention
from ops.spec import seq
from tests.ops.attention.plain import data
from tests.ops.case import Case, close

OP_NAME = "nystrom"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "landmarks": 8, "kernel": 5}),
    Case(seq(21, 12, may_pad=True), {"heads": 2, "landmarks": 5, "kernel": 0}),
    Case(seq(21, 12), {"heads": 3}),
]


def test_every_token_a_landmark_is_softmax_attention() -> None:
    layer = NystromAttention(12, 3, 21, 0, 40).double()
    with torch.no_grad():
        layer.qkv.weight[:24].mul_(5.0)  # sharp rows make A invertible
    dense = SoftmaxAttention(12, 3).double()
    q, kv = layer.qkv.weight.detach().split([12, 24])
    dense.load_state_dict({"q.weight": q, "kv.weight": kv, "out.weight": layer.out.weight.detach()})
    torch.testing.assert_close(layer(data()), dense.alone(data()), rtol=1e-4, atol=1e-4)


def test_the_iteration_finds_the_pseudo_inverse() -> None:
    torch.manual_seed(0)
    a = torch.randn(2, 6, 6, dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(iterated_inverse(a, 40), torch.linalg.pinv(a), rtol=1e-6, atol=1e-6)
    near = [(a @ iterated_inverse(a, n) @ a - a).norm() for n in (1, 6, 20)]
    assert near[0] > near[1] > near[2]


def test_one_landmark_gives_the_weighted_mean() -> None:
    layer = NystromAttention(12, 3, 1, 0, 6).double()
    y = layer(data())
    close(y, y[:, :1].expand_as(y))


def test_the_convolution_is_over_each_heads_values() -> None:
    layer = NystromAttention(12, 3, 4, 3, 6).double()
    v = torch.randn(2, 3, 9, 4, dtype=torch.float64)
    assert layer.conv is not None
    a, b, c = layer.conv.unbind(1)
    want = a[:, None] * v[:, :, 3] + b[:, None] * v[:, :, 4] + c[:, None] * v[:, :, 5]
    close(layer.local(v)[:, :, 4], want)


def test_a_sample_of_padding_only_stays_finite() -> None:
    layer = NystromAttention(12, 3, 4, 3, 6)
    x = torch.randn(2, 9, 12, requires_grad=True)
    layer(x, torch.tensor([[True] * 9, [False] * 9])).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
