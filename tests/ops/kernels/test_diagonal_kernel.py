"""The Triton recurrence with a decay for every channel against its float64 reference."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ops.kernels import diagonal
from ops.kernels.diagonal import chunked_diagonal

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from ops.kernels.diagonal_launch import diagonal_config, diagonal_triton
from tests.ops.kernels.recurrence import (
    DEVICE,
    calls_of,
    errors,
    gpu,
    launched,
    needs_gpu,
    poisoned,
    resets_are_exact,
    right,
)


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

    def kernel(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        return diagonal_triton(*parts, config=self.sizes())

    def errors(self, inputs: list[Tensor] | None = None) -> dict[str, float]:
        names = ("q", "k", "v", "g", "state")
        given = inputs or self.inputs()
        return errors(self.kernel, chunked_diagonal, given, self.dtype, names)


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
    right(problem.errors(), problem.dtype)


def test_gates_too_strong_for_one_piece_are_exact() -> None:
    """16 tokens of -20 on average are e^-320: neither factor of a whole chunk would be finite."""
    right(Problem(40, 16, 16, strength=40.0).errors(), torch.float32)


def test_a_reset_spoils_no_decay_behind_it() -> None:
    problem = Problem(40, 16, 16)
    inputs = problem.inputs()
    inputs[3] *= 0.05
    inputs[3][:, :, 20, ::2] = -1e5
    right(problem.errors(inputs), torch.float32)
    resets_are_exact(problem.kernel, inputs, 3)


def test_the_public_function_takes_the_kernel_where_it_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = calls_of(monkeypatch, diagonal, "diagonal_triton")
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
    right(problem.errors(), problem.dtype)


@gpu
@needs_gpu
def test_an_ops_forward_and_backward_launch_the_kernels() -> None:
    q, k, v, g, _ = (x.to(DEVICE, torch.bfloat16) for x in Problem(700, 64, 64).inputs())
    g.requires_grad_()
    names = launched(lambda: chunked_diagonal(q, k, v, g)[0].sum().backward())
    assert {"diagonal_sums", "diagonal_scan", "diagonal_read", "diagonal_grads"} <= names
