"""Batch norm: PyTorch's, but with its buffers written by `update` alone."""

import pytest
import torch
from torch import nn

from ops.norm.batch import OP, BatchNorm
from ops.spec import image, seq, vec
from tests.ops.case import Case, close

OP_NAME = "batch_norm"
CASES = [Case(image(5, 4, 3)), Case(seq(9, 6)), Case(vec(7), {"eps": 1e-3})]


def reference(x: torch.Tensor) -> nn.Module:
    return {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[x.dim()](6).double()


@pytest.mark.parametrize("shape", [(8, 6), (3, 9, 6), (3, 6, 4, 5)])
def test_three_steps_are_those_of_pytorch(shape: tuple[int, ...]) -> None:
    layer = BatchNorm(6).double()
    torch.manual_seed(0)
    batches = torch.randn(3, *shape, dtype=torch.float64) * 2 + 1
    other = reference(batches[0])

    def turned(x: torch.Tensor) -> torch.Tensor:
        return x.mT if x.dim() == 3 else x

    for x in batches:
        y, stats = layer(x)
        layer.update(stats)
        close(y, turned(other(turned(x))))
    close(layer.running_mean, other.running_mean)
    close(layer.running_var, other.running_var)
    close(layer.eval()(batches[0])[0], turned(other.eval()(turned(batches[0]))))


def test_forward_writes_no_buffer() -> None:
    layer = BatchNorm(6)
    before = {name: value.clone() for name, value in layer.named_buffers()}
    layer(torch.randn(4, 6, 3, 3) + 5.0)
    assert all(torch.equal(before[name], value) for name, value in layer.named_buffers())


def test_updating_with_the_stats_of_eval_changes_nothing() -> None:
    layer = BatchNorm(6)
    layer.update(layer(torch.randn(4, 6))[1])
    before = layer.running_var.clone()
    layer.update(layer.eval()(torch.randn(4, 6))[1])
    assert torch.equal(layer.running_var, before)


def test_a_single_value_per_channel_uses_the_running_statistics() -> None:
    layer, x = BatchNorm(6), torch.randn(1, 6)
    y, stats = layer(x)
    close(y, x / (1 + 1e-5) ** 0.5)
    assert torch.equal(stats[1], torch.ones(6))


def test_on_a_sequence_it_is_not_causal() -> None:
    assert not OP.is_causal(seq(9, 6), eps=1e-5)
    assert OP.is_causal(vec(6), eps=1e-5)
