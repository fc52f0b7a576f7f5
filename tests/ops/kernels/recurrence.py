"""What the tests of the recurrent Triton engines share: a device, limits, and one comparison.

On a CPU the kernels run under Triton's interpreter in fp32; on a GPU in bf16 too, and larger.
"""

from collections.abc import Callable, Sequence
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not CUDA, reason="no CUDA device")
# ||out - ref|| / ||ref||; three tf32 products make an fp32 one on the GPU
LIMIT = {torch.float32: 2e-5 if CUDA else 3e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}

Recurrence = Callable[..., tuple[Tensor, Tensor]]


def gap(actual: Tensor, exact: Tensor) -> float:
    got, want = actual.detach().double().cpu(), exact.detach().cpu()
    found = float((got - want).norm() / want.norm().clamp_min(1e-30))
    return found if found == found else float("inf")


def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that the launches allocate starts as NaN."""
    empty = Tensor.new_empty

    def filled(x: Tensor, *size: int, **options: torch.dtype) -> Tensor:
        return empty(x, *size, **options).fill_(float("nan"))

    monkeypatch.setattr(Tensor, "new_empty", filled)


def narrowed(exact: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """On the device: the first three (q, k, v) in `dtype`, gates and states in fp32."""
    types = [dtype] * 3 + [torch.float32] * (len(exact) - 3)
    return [x.detach().to(DEVICE, t) for x, t in zip(exact, types, strict=True)]


def errors(
    kernel: Recurrence,
    reference: Recurrence,
    inputs: Sequence[Tensor],
    dtype: torch.dtype,
    names: Sequence[str],
    fixed: Sequence[int] = (),
) -> dict[str, float]:
    """The relative error of o, the last state and the gradient of each input but the fixed ones.

    `names` are those of the inputs.
    """
    exact = [x.clone().requires_grad_(n not in fixed) for n, x in enumerate(inputs)]
    low = [
        x.requires_grad_(e.requires_grad)
        for x, e in zip(narrowed(exact, dtype), exact, strict=True)
    ]
    want, got = reference(*exact), kernel(*low)
    seeds = [torch.randn_like(x.cpu()).to(DEVICE) for x in got]
    wanted = [x for x in exact if x.requires_grad]
    want_grads = torch.autograd.grad(want, wanted, [s.double().cpu() for s in seeds])
    got_grads = torch.autograd.grad(got, [x for x in low if x.requires_grad], seeds)
    kept = [f"d{x}" for n, x in enumerate(names) if n not in fixed]
    pairs = zip([*got, *got_grads], [*want, *want_grads], strict=True)
    return {n: gap(a, e) for n, (a, e) in zip(["o", "last", *kept], pairs, strict=False)}


def right(found: dict[str, float], dtype: torch.dtype, scale: float = 1.0) -> None:
    """dg, a difference of two sums of products, may be off by five times the rounding."""
    dg = found.pop("dg", 0.0)
    assert max(found.values()) <= scale * LIMIT[dtype], found
    assert dg <= 5 * LIMIT[dtype], dg


def resets_are_exact(kernel: Recurrence, inputs: list[Tensor], gate: int) -> None:
    """-1e5 and -inf at the same token give the same result, bit for bit."""
    low = narrowed(inputs, torch.bfloat16 if CUDA else torch.float32)
    y, last = kernel(*low)
    low[gate] = torch.where(low[gate] < -1e4, float("-inf"), low[gate])
    same, again = kernel(*low)
    assert low[gate].isinf().any()
    assert torch.equal(y, same)
    assert torch.equal(last, again)


def calls_of(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str) -> list[torch.Size]:
    """The shapes of q with which the public function of `module` took its kernel."""
    calls: list[torch.Size] = []

    def counted(*parts: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(parts[0].shape)
        return parts[2], parts[2]

    monkeypatch.setattr(module, name, counted)
    monkeypatch.setattr(module, "on_triton", lambda *x: True)
    return calls


def launched(run: Callable[[], object]) -> set[str]:
    """The names of the kernels that ran."""
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as seen:
        run()
        torch.cuda.synchronize()
    return {e.key for e in seen.key_averages()}
