"""Kernels against their specification: the same function in float64, output and every gradient.

Memory that a kernel leaves unwritten shows: `poisoned` fills empty tensors with NaN.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# ||out - reference|| / ||reference|| of a few products and sums in that type.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
Outs = Tensor | tuple[Tensor, ...]


@contextmanager
def poisoned() -> Iterator[None]:
    """Empty tensors are full of NaN in here."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # with torch.utils.deterministic's default, the fill
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def gap(actual: Tensor, expected: Tensor) -> float:
    """||actual - expected|| / ||expected||; NaN where either holds one."""
    difference = (actual.detach().double() - expected.detach()).norm()
    return float(difference / expected.detach().norm().clamp_min(1e-30))


def made_by(y: Tensor) -> str:
    """The name of the autograd function that gave y."""
    return type(y.grad_fn).__name__


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Normal numbers that want a gradient, on the device under test."""
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
    return drawn.to(DEVICE, dtype).requires_grad_()


def check(
    kernel: Callable[..., Outs],
    reference: Callable[..., Outs],
    inputs: Sequence[Tensor],
    tolerance: float | None = None,
) -> None:
    """Outputs and the gradients of all inputs that want one are those of `reference` in float64."""
    exact = [
        x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x
        for x in inputs
    ]
    want = _tuple(reference(*exact))
    with poisoned():
        got = _tuple(kernel(*inputs))
        seeds = [random(*w.shape, seed=7 + i).detach() for i, w in enumerate(want)]
        wanted = [x for x in inputs if x.requires_grad]
        mine = torch.autograd.grad(got, wanted, [s.to(g) for s, g in zip(seeds, got, strict=True)])
    theirs = torch.autograd.grad(
        want,
        [x for x in exact if x.requires_grad],
        [s.to(g.dtype).double() for s, g in zip(seeds, got, strict=True)],
        materialize_grads=True,
    )
    for a, e, like in zip((*got, *mine), (*want, *theirs), (*got, *wanted), strict=True):
        assert a.dtype == like.dtype
        # an output rounds by its own type, a gradient also by the types on its way
        coarse = max(TOLERANCE[t.dtype] for t in (*inputs, *got) if t.dtype in TOLERANCE)
        assert gap(a, e) <= (coarse if tolerance is None else tolerance), (a - e).abs().max()


def _tuple(value: Outs) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)
