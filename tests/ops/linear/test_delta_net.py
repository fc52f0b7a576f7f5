"""DeltaNet: the loop over matrices, unit keys, eigenvalues, nothing written at b = 0."""

import torch
from torch import Tensor

from ops.linear.delta_net import DeltaNet
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "delta_net"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3}),
    Case(seq(90, 8, may_pad=True), {"heads": 2, "kernel": 1, "negative": True}),
    Case(seq(1, 6), {"heads": 1}),
]


def parts(layer: DeltaNet, x: Tensor) -> tuple[Tensor, ...]:
    return layer.parts(x, layer.conv(layer.qkv(x)))


def test_it_is_the_published_recurrence() -> None:
    for negative in (False, True):
        layer = DeltaNet(12, 3, negative=negative).double()
        x = torch.randn(2, 70, 12, dtype=torch.float64)
        q, k, v, beta = parts(layer, x)
        state, out, eye = q.new_zeros(2, 3, 4, 4), [], torch.eye(4, dtype=torch.float64)
        for t in range(70):
            key, b = k[:, :, t, :, None], beta[:, :, t, None, None]
            state = (eye - b * key @ key.mT) @ state + b * key @ v[:, :, t, None]
            out.append((state.mT @ q[:, :, t, :, None])[..., 0])
        close(layer(x), layer.merge(torch.stack(out, 2)))


def test_keys_have_length_one_and_b_ends_at_one_or_two() -> None:
    layer = DeltaNet(12, 3, negative=True).double()
    _, k, _, beta = parts(layer, 100 * torch.randn(2, 40, 12, dtype=torch.float64))
    assert (k.norm(dim=-1) <= 1).all()
    assert k.norm(dim=-1).max() > 0.99
    assert 1 < beta.max() <= 2


def test_without_writing_the_output_is_zero() -> None:
    layer = DeltaNet(12, 3).double()
    x = torch.ones(1, 20, 12, dtype=torch.float64)
    torch.nn.init.constant_(layer.beta.weight, -1e3)
    close(layer(x), torch.zeros_like(x))
