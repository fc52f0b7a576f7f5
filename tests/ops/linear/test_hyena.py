"""Hyena: long convolutions are Toeplitz matrices, filters fade, any length, any number of gates."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ops.linear.hyena import OP, Hyena, HyenaFilter, long_conv
from ops.spec import seq
from tests.ops.case import BATCH, Case, bench, close

OP_NAME = "hyena"
# The filters are made once for the batch: see the test of one sample below.
CASES = [
    Case(seq(63, 8, may_pad=True), {"width": 5, "bands": 3}, flops="analytic"),
    Case(seq(21, 6, may_pad=True), {"order": 3, "kernel": 2, "width": 4}, flops="analytic"),
    Case(seq(9, 5), {"order": 1, "kernel": 1, "bands": 1, "width": 3}, flops="analytic"),
    Case(seq(1, 4), flops="analytic"),
]


def toeplitz(h: Tensor) -> Tensor:
    """[..., T] -> [..., T, T] with h_{t-s} at (t, s)."""
    size = h.shape[-1]
    age = torch.arange(size)[:, None] - torch.arange(size)
    return torch.where(age >= 0, h[..., age.clamp(min=0)], torch.zeros((), dtype=h.dtype))


@pytest.mark.parametrize("length", [1, 2, 31, 64])
def test_the_long_convolution_is_a_toeplitz_matrix(length: int) -> None:
    z = torch.randn(2, 3, length, dtype=torch.float64)
    h = torch.randn(3, length, dtype=torch.float64)
    close(long_conv(z, h), (toeplitz(h) @ z[..., None])[..., 0])


def test_gradients_of_the_long_convolution() -> None:
    z = torch.randn(1, 2, 7, dtype=torch.float64, requires_grad=True)
    h = torch.randn(2, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(long_conv, (z, h))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_it_is_a_product_of_diagonal_and_toeplitz_matrices(order: int) -> None:
    layer = Hyena(6, order, 3, 4, 5, 17).double()
    x = torch.randn(2, 17, 6, dtype=torch.float64)
    short = torch.nn.functional.pad(layer.into(x).mT, (2, 0))
    z, *gates = layer.split(layer.short(short))
    eye = torch.eye(17, dtype=torch.float64)
    for gate, h, skip in zip(gates, layer.filter(17), layer.skip, strict=True):
        matrix = torch.diag_embed(gate) @ (toeplitz(h) + skip[..., None] * eye)
        z = (matrix @ z[..., None])[..., 0]
    close(layer(x), layer.out(z.mT))


def test_without_filters_only_the_gates_and_the_skips_remain() -> None:
    layer = Hyena(6, 2, 1, 4, 5, 17).double()
    torch.nn.init.zeros_(layer.filter.last.weight)
    torch.nn.init.ones_(layer.skip)
    x = torch.randn(2, 17, 6, dtype=torch.float64)
    z, *gates = layer.split(layer.short(layer.into(x).mT))
    close(layer(x), layer.out((z * gates[0] * gates[1]).mT))


def test_filters_are_given_by_position_so_any_length_will_do() -> None:
    layer = Hyena(6, 2, 3, 4, 5, 17).double()
    x = torch.randn(2, 40, 6, dtype=torch.float64)
    for length in (1, 9, 17):
        close(layer(x[:, :length]), layer(x)[:, :length])


def test_filters_fade_within_their_windows() -> None:
    made = HyenaFilter(5, 1, 3, 4, 101).double()
    torch.nn.init.ones_(made.last.weight)
    h = made(152)[0]
    shape = h / h[:1]  # all channels read the same network: what differs is the window
    age = torch.arange(152, dtype=torch.float64) / 100
    rate = torch.log(torch.tensor(100.0, dtype=torch.float64))
    for channel, reach in ((0, 1.5), (4, 0.3)):
        other = 1 / 1.5 if channel == 4 else 1 / 0.3
        gap = shape[channel] / shape[4 - channel]
        close(gap, torch.exp(-age * rate * (1 / reach - other)), scale=1e3)


def test_the_cost_is_that_of_one_sample_filters_and_all() -> None:
    for case in CASES:
        one = bench(OP_NAME, case)
        module, x = one.build(), torch.randn(1, *case.types[0].shape)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(x)
        assert counter.get_total_flops() == one.cost.flops
        assert BATCH == 2


def test_gradients_of_the_layer() -> None:
    torch.manual_seed(0)
    layer = Hyena(3, 2, 2, 2, 3, 5).double()
    x = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_defaults_are_those_of_the_papers_language_models() -> None:
    plain = {name: domain.default for name, domain in OP.params.items()}
    assert plain == {"order": 2, "kernel": 3, "bands": 16, "width": 64}
