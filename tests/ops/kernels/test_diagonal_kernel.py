"""The Triton recurrence with a decay for every channel against its float64 reference.

On a CPU the kernels run under Triton's interpreter in fp32; on a GPU in bf16 too, and larger.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ops.kernels import diagonal
from ops.kernels.diagonal import chunked_diagonal

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from ops.kernels.diagonal_launch import diagonal_config, diagonal_triton
from tests.ops.kernels.test_chunked_kernel import CUDA, DEVICE, LIMIT, gap, gpu, needs_gpu, poisoned


@dataclass(frozen=True)
class Problem:
    length: int
    key: int
    value: int
    heads: int = 2
    batch: int = 1
    strength: float = 0.2  # gates are uniform in [-strength, 0]
    state: bool = True
    dtype: torch.dtype = torch.float32
    config: tuple[tuple[str, int], ...] = (("chunk", 16), ("span", 32), ("block", 16))

    def inputs(self) -> list[Tensor]:
        """q, k, v, g and the state in float64, of values that the narrow types hold exactly."""
        torch.manual_seed(self.length + self.key)
        b, h, t = self.batch, self.heads, self.length
        q, k = (torch.randn(b, h, t, self.key).to(self.dtype).double() for _ in range(2))
        v = torch.randn(b, h, t, self.value).to(self.dtype).double()
        g = -self.strength * torch.rand(b, h, t, self.key)
        first = [torch.randn(b, h, self.key, self.value).double()] if self.state else []
        return [q * 2**-3, k, v, g.double(), *first]

    def sizes(self) -> dict[str, int]:
        wide = self.dtype != torch.bfloat16
        rows = self.batch * self.heads
        return diagonal_config(self.length, rows, self.key, self.value, wide) | dict(self.config)


def errors(problem: Problem, inputs: list[Tensor] | None = None) -> dict[str, float]:
    """The relative error of o, the last state and the gradient of each input."""
    exact = [x.clone().requires_grad_() for x in inputs or problem.inputs()]
    types = [problem.dtype] * 3 + [torch.float32] * 2
    low = [x.detach().to(DEVICE, t).requires_grad_() for x, t in zip(exact, types, strict=False)]
    want = chunked_diagonal(*exact)
    got = diagonal_triton(*low, config=problem.sizes())
    seeds = [torch.randn_like(x.cpu()).to(DEVICE) for x in got]
    want_grads = torch.autograd.grad(want, exact, [s.double().cpu() for s in seeds])
    got_grads = torch.autograd.grad(got, low, seeds)
    names = ["o", "last", "dq", "dk", "dv", "dg", "dstate"]
    pairs = zip([*got, *got_grads], [*want, *want_grads], strict=True)
    return {n: gap(a, e) for n, (a, e) in zip(names, pairs, strict=False)}


def right(found: dict[str, float], dtype: torch.dtype) -> None:
    """dg is a difference of two sums of products: five times the rounding."""
    dg = found.pop("dg")
    assert max(found.values()) <= LIMIT[dtype], found
    assert dg <= 5 * LIMIT[dtype], dg


SMALL = [
    Problem(47, 24, 40, heads=1),
    Problem(37, 16, 8, batch=2, config=(("chunk", 16), ("span", 64), ("block", 32))),
    Problem(1, 16, 16),
]


@pytest.mark.parametrize("problem", SMALL, ids=str)
def test_outputs_and_gradients_of_ragged_problems(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch)
    right(errors(problem), problem.dtype)


def test_gates_too_strong_for_one_piece_are_exact() -> None:
    """16 tokens of -20 on average are e^-320: neither factor of a whole chunk would be finite."""
    right(errors(Problem(40, 16, 16, strength=40.0)), torch.float32)


def test_a_reset_spoils_no_decay_behind_it() -> None:
    problem = Problem(40, 16, 16)
    inputs = problem.inputs()
    inputs[3] *= 0.05
    inputs[3][:, :, 20, ::2] = -1e5
    right(errors(problem, inputs), torch.float32)
    low = [x.to(DEVICE, torch.float32) for x in inputs]
    y, last = diagonal_triton(*low, config=problem.sizes())
    low[3][:, :, 20, ::2] = float("-inf")
    same, again = diagonal_triton(*low, config=problem.sizes())
    assert torch.equal(y, same)
    assert torch.equal(last, again)


def test_the_public_function_takes_the_kernel_where_it_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[torch.Size] = []

    def counted(*parts: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(parts[0].shape)
        return parts[2], parts[2]

    monkeypatch.setattr(diagonal, "diagonal_triton", counted)
    monkeypatch.setattr(diagonal, "on_triton", lambda *x: True)
    q, k, v, g, _ = Problem(5, 16, 16).inputs()
    chunked_diagonal(q, k, v, g)
    assert calls == [q.shape]
    chunked_diagonal(q, k, v, g, bonus=torch.zeros(2, 16).double())  # the reference
    assert calls == [q.shape]


LARGE = [
    Problem(n, d, d, heads=4, batch=2, strength=s, dtype=t, config=())
    for n, d, s, t in [
        (1000, 64, 0.1, torch.bfloat16),
        (4096, 64, 0.1, torch.bfloat16),
        (1000, 64, 5.0, torch.bfloat16),
        (2100, 128, 0.1, torch.bfloat16),
        (700, 256, 0.3, torch.bfloat16),
        (1000, 64, 0.1, torch.float16),
        (500, 48, 1.0, torch.float32),
        (300, 128, 1.0, torch.float32),
    ]
] + [
    Problem(1000, 32, 128, heads=3, dtype=torch.bfloat16, config=()),
    Problem(300, 64, 64, heads=300, dtype=torch.bfloat16, config=()),
]


@gpu
@needs_gpu
@pytest.mark.parametrize("problem", LARGE, ids=str)
def test_larger_problems_on_the_device(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch)
    right(errors(problem), problem.dtype)


@gpu
@needs_gpu
def test_an_ops_forward_and_backward_launch_the_kernels() -> None:
    assert CUDA
    q, k, v, g, _ = (x.to(DEVICE, torch.bfloat16) for x in Problem(700, 64, 64).inputs())
    g.requires_grad_()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as seen:
        chunked_diagonal(q, k, v, g)[0].sum().backward()
        torch.cuda.synchronize()
    names = {e.key for e in seen.key_averages()}
    assert {"diagonal_sums", "diagonal_scan", "diagonal_read", "diagonal_grads"} <= names
