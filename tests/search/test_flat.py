"""The flat optimiser is AdamW with clipped gradients; its kernels are its specification."""

import importlib.util
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from search.flat import ALIGN, FlatAdamW
from search.flat_kernel import Flat, update, update_plainly

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RATES = [1e-2 * 0.8**i for i in range(12)]
without = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton has no wheel for this platform"
)
Update = Callable[[Flat], None]
UPDATES = [update_plainly, pytest.param(update, marks=without)]


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 33), nn.LayerNorm(33), nn.Linear(33, 5, bias=False)).to(
        DEVICE
    )


def _flat(net: nn.Module, low: tuple[int, ...] = ()) -> FlatAdamW:
    params = list(net.parameters())
    rates = torch.tensor(RATES, device=DEVICE)
    return FlatAdamW(params, rates=rates, weight_decay=0.1, cast=[params[i] for i in low])


def _gradients(net: nn.Module, scale: float) -> list[list[Tensor]]:
    """Numbers that bfloat16 holds, so that nothing is rounded on the way."""
    torch.manual_seed(1)
    params = list(net.parameters())
    return [[(torch.randn_like(p) * scale).bfloat16().float() for p in params] for _ in RATES]


def _plain(net: nn.Module, scale: float) -> None:
    params = list(net.parameters())
    groups = [
        {"params": [p for p in params if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in params if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups)
    for rate, gradients in zip(RATES, _gradients(net, scale), strict=True):
        for group in optimiser.param_groups:
            group["lr"] = rate
        for p, g in zip(params, gradients, strict=True):
            p.grad = g.clone()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()


@pytest.mark.parametrize("run", UPDATES)
@pytest.mark.parametrize("low", [(), (0, 1, 4), (0, 1, 2, 3, 4)], ids=["none", "some", "all"])
@pytest.mark.parametrize("scale", [1e-3, 10.0], ids=["below", "clipped"])
def test_twelve_steps_are_those_of_adamw_after_clipping(
    scale: float, low: tuple[int, ...], run: Update
) -> None:
    plain, net = _net(), _net()
    _plain(plain, scale)
    optimiser, params = _flat(net, low), list(net.parameters())
    for gradients in _gradients(net, scale):
        for slot in optimiser.slots:
            given = gradients[next(i for i, p in enumerate(params) if p is slot.param)]
            slot.leaf.grad = given.to(slot.leaf.dtype)
        optimiser.gather()
        run(optimiser.flat)
    for mine, other in zip(params, plain.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=2e-5, atol=1e-6)
    assert int(optimiser.flat.count) == len(RATES)
    assert sum(slot.leaf is not slot.param for slot in optimiser.slots) == len(low)
    first = optimiser.flat.master.data_ptr()
    for slot in optimiser.slots:
        assert (slot.param.data_ptr() - first) % (4 * ALIGN) == 0
        # Triton's interpreter cuts off where a GPU rounds.
        exact = DEVICE == "cuda" or run is update_plainly
        if slot.leaf is not slot.param:
            torch.testing.assert_close(
                slot.leaf, slot.param.to(torch.bfloat16), rtol=0 if exact else 2**-7, atol=0
            )


@pytest.mark.parametrize("run", UPDATES)
def test_a_gradient_that_is_not_finite_spoils_all_parameters(run: Update) -> None:
    optimiser = _flat(_net(), (0,))
    for slot in optimiser.slots:
        slot.leaf.grad = torch.ones_like(slot.leaf)
    optimiser.slots[-1].leaf.grad = torch.full_like(optimiser.slots[-1].leaf, torch.nan)
    optimiser.gather()
    run(optimiser.flat)
    assert all(bool(slot.param.isnan().all()) for slot in optimiser.slots)


def test_a_missing_gradient_is_told() -> None:
    optimiser = _flat(_net())
    for slot in optimiser.slots[1:]:
        slot.leaf.grad = torch.ones_like(slot.leaf)
    with pytest.raises(RuntimeError, match="not again"):
        optimiser.step()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_step_is_two_copies_and_two_kernels_of_ours() -> None:
    optimiser = _flat(_net(), (0, 1))
    for slot in optimiser.slots:
        slot.leaf.grad = torch.ones_like(slot.leaf)
    optimiser.step()
    torch.cuda.synchronize()
    with torch.profiler.profile(acc_events=True) as found:
        optimiser.step()
        torch.cuda.synchronize()
    names = [e.name for e in found.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    assert {"adamw_flat", "norm_squares"} <= set(names)
    assert len(names) == 4
