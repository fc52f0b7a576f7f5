"""The flat optimiser is AdamW with clipped gradients; its kernels are its specification."""

import importlib.util
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from search.flat import ALIGN, FlatAdamW
from search.flat_kernel import update

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
RATES = [1e-2 * 0.8**i for i in range(12)]


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 33), nn.LayerNorm(33), nn.Linear(33, 5, bias=False)).to(
        DEVICE
    )


def _gradients(net: nn.Module, scale: float) -> list[list[Tensor]]:
    torch.manual_seed(1)
    params = list(net.parameters())
    return [[torch.randn_like(p) * scale for p in params] for _ in RATES]


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


def _flat(net: nn.Module, scale: float, step: Callable[[FlatAdamW], None]) -> FlatAdamW:
    params = list(net.parameters())
    gradients = _gradients(net, scale)
    lr = torch.zeros((), device=DEVICE)
    low = [params[0], params[1], params[4]]
    optimiser = FlatAdamW(params, lr=lr, weight_decay=0.1, cast=low)
    order = [next(i for i, p in enumerate(params) if p is s.param) for s in optimiser.slots]
    for rate, given in zip(RATES, gradients, strict=True):
        lr.fill_(rate)
        for slot, i in zip(optimiser.slots, order, strict=True):
            # fp32 gradients at bfloat16 leaves, so that nothing is rounded here
            slot.param.grad = given[i].clone()
            if slot.leaf is not slot.param:
                slot.grad.copy_(given[i])
        step(optimiser)
    return optimiser


def _with_kernels(optimiser: FlatAdamW) -> None:
    optimiser.gather()
    update(
        (optimiser.master, optimiser.grad, optimiser.m, optimiser.v),
        optimiser.shadow,
        optimiser.first,
        optimiser.parts,
        optimiser.count,
        optimiser.lr,
        decayed=optimiser.decayed,
        decay=0.1,
        clip=1.0,
        betas=(0.9, 0.999),
        eps=1e-8,
    )


def _with_torch(optimiser: FlatAdamW) -> None:
    optimiser.gather()
    optimiser._update()


without = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton has no wheel for this platform"
)
STEPS = [_with_torch, pytest.param(_with_kernels, marks=without)]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("scale", [1e-3, 10.0], ids=["below", "clipped"])
def test_twelve_steps_are_those_of_adamw_after_clipping(
    scale: float, step: Callable[[FlatAdamW], None]
) -> None:
    plain, flat = _net(), _net()
    _plain(plain, scale)
    optimiser = _flat(flat, scale, step)
    for mine, other in zip(flat.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=2e-5, atol=1e-6)
    assert int(optimiser.count) == len(RATES)
    for slot in optimiser.slots:
        if slot.leaf is not slot.param:
            # Triton's interpreter cuts off where a GPU rounds.
            exact = DEVICE == "cuda" or step is _with_torch
            torch.testing.assert_close(
                slot.leaf, slot.param.to(torch.bfloat16), rtol=0 if exact else 2**-7, atol=0
            )
    first = optimiser.master.data_ptr()
    assert all((slot.param.data_ptr() - first) % (4 * ALIGN) == 0 for slot in optimiser.slots)


@pytest.mark.parametrize("step", STEPS)
def test_a_gradient_that_is_not_finite_spoils_all_parameters(
    step: Callable[[FlatAdamW], None],
) -> None:
    net = _net()
    optimiser = FlatAdamW(list(net.parameters()), lr=torch.ones((), device=DEVICE), weight_decay=0)
    for slot in optimiser.slots:
        slot.leaf.grad = torch.ones_like(slot.leaf)
    optimiser.slots[0].leaf.grad = torch.full_like(optimiser.slots[0].leaf, torch.nan)
    step(optimiser)
    assert all(bool(p.isnan().all()) for p in net.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_step_is_two_kernels_of_ours() -> None:
    net = _net()
    optimiser = FlatAdamW(list(net.parameters()), lr=torch.ones((), device="cuda"), weight_decay=0)
    for slot in optimiser.slots:
        slot.leaf.grad = torch.ones_like(slot.leaf)
    optimiser.step()
    torch.cuda.synchronize()
    with torch.profiler.profile(acc_events=True) as found:
        optimiser.step()
        torch.cuda.synchronize()
    names = [e.name for e in found.events()]
    assert "adamw_flat" in names
    assert "norm_squares" in names
    assert not any("FusedAdam" in name for name in names)
