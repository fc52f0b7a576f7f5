"""The Triton chunked recurrence against its float64 reference: outputs, states, every gradient."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ops.kernels import chunked
from ops.kernels.chunked import chunked_decay

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from ops.kernels.chunked_launch import decay_config, decay_triton
from tests.ops.kernels.recurrence import (
    DEVICE,
    LIMIT,
    calls_of,
    errors,
    gap,
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
    heads: int = 3
    batch: int = 1
    gated: bool = True
    state: bool = True
    shared: bool = False
    dtype: torch.dtype = torch.float32
    config: tuple[tuple[str, int], ...] = (("chunk", 16), ("span", 32), ("block", 16))

    def inputs(self) -> list[Tensor]:
        """q, k, v, g and the state in float64, of values that the narrow types hold exactly."""
        torch.manual_seed(self.length + self.key)
        b, h, t = self.batch, self.heads, self.length
        few = 1 if self.shared else h
        shapes = [(b, few, t, self.key), (b, few, t, self.key), (b, h, t, self.value)]
        q, k, v = (torch.randn(s).to(self.dtype).double() for s in shapes)
        g = -0.2 * torch.rand((b, h, t) if self.gated else (h, 1))
        first = [torch.randn(b, h, self.key, self.value).double()] if self.state else []
        return [q * 2**-3, k, v, g.double(), *first]

    def sizes(self) -> dict[str, int]:
        wide = self.dtype == torch.float32
        rows = self.batch * self.heads
        return decay_config(self.length, rows, self.key, self.value, wide) | dict(self.config)

    def kernel(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        return decay_triton(*parts, config=self.sizes())

    def errors(self, inputs: list[Tensor] | None = None) -> dict[str, float]:
        names = ("q", "k", "v", "g", "state")
        fixed = () if self.gated else (3,)
        given = inputs or self.inputs()
        return errors(self.kernel, chunked_decay, given, self.dtype, names, fixed)


SMALL = [
    Problem(63, 24, 40),
    Problem(63, 24, 40, gated=False),
    Problem(37, 16, 8, config=(("chunk", 16), ("span", 64), ("block", 32)), batch=2),
    Problem(37, 16, 24, gated=False, state=False, shared=True),
    Problem(1, 16, 16),
    Problem(5, 5, 7, gated=False, config=(("chunk", 16), ("span", 16), ("block", 16))),
]


@pytest.mark.parametrize("problem", SMALL, ids=str)
def test_outputs_and_gradients_of_ragged_problems(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch)
    right(problem.errors(), problem.dtype)


def test_a_reset_spoils_no_decay_behind_it() -> None:
    """Differences of fp32 cumulative sums would lose 1e5 * 6e-8 = 6e-3 of every later exponent."""
    problem = Problem(63, 16, 16, heads=2)
    inputs = problem.inputs()
    inputs[3] *= 0.05
    inputs[3][:, :, 20] = -1e5
    right(problem.errors(inputs), problem.dtype)
    resets_are_exact(problem.kernel, inputs, 3)


def test_strong_decay_has_finite_gradients() -> None:
    q, k, v, _, state = (x.to(DEVICE, torch.float32) for x in Problem(40, 16, 16).inputs())
    g = torch.full((1, 3, 40), -300.0, device=DEVICE)
    parts = [x.requires_grad_() for x in (q, k, v, g, state)]
    y, last = decay_triton(*parts, config=Problem(40, 16, 16).sizes())
    exact = (q * k).sum(-1, keepdim=True) * v
    assert gap(y, exact.detach().double()) < LIMIT[torch.float32]
    grads = torch.autograd.grad(y.square().sum() + last.sum(), parts)
    assert all(x.isfinite().all() for x in grads)


def test_inputs_of_a_fused_projection_are_read_in_place() -> None:
    """q, k, v as a layer has them: slices of one [B, T, 3 H K] tensor, heads inside of time."""
    torch.manual_seed(0)
    wide = torch.randn(2, 21, 3 * 48, device=DEVICE)
    q, k, v = (x.unflatten(-1, (3, 16)).transpose(1, 2) for x in wide.chunk(3, -1))
    g = torch.full((3, 1), -0.1, device=DEVICE)
    y, _ = decay_triton(q, k, v, g)
    assert y.transpose(1, 2).is_contiguous()
    exact, _ = chunked_decay(*(x.double().cpu() for x in (q, k, v, g)))
    assert gap(y, exact) < LIMIT[torch.float32]


def test_the_public_function_takes_the_kernel_where_it_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = calls_of(monkeypatch, chunked, "decay_triton")
    q, k, v, g, _ = Problem(5, 16, 16).inputs()
    chunked_decay(q, k, v, g)
    assert calls == [q.shape]
    wide = torch.zeros(1, 3, 5, 300)
    chunked_decay(wide, wide, v, g)  # K > 256: the reference
    assert calls == [q.shape]


LARGE = [
    Problem(n, d, d, heads=4, batch=2, gated=gated, dtype=t, config=())
    for n, d, gated, t in [
        (1000, 64, False, torch.bfloat16),
        (4096, 64, False, torch.bfloat16),
        (1000, 64, True, torch.bfloat16),
        (4100, 128, True, torch.bfloat16),
        (1000, 128, False, torch.float16),
        (700, 256, True, torch.bfloat16),
        (500, 48, True, torch.float32),
    ]
] + [
    Problem(1000, 128, 64, heads=8, shared=True, dtype=torch.bfloat16, config=()),
    Problem(300, 64, 65, heads=300, gated=False, state=False, dtype=torch.bfloat16, config=()),
    Problem(3, 24, 80, dtype=torch.bfloat16, config=()),
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
    q.requires_grad_()
    names = launched(lambda: chunked_decay(q, k, v, g)[0].sum().backward())
    assert {"decay_sums", "decay_scan", "decay_read", "decay_grads"} <= names


@gpu
@needs_gpu
def test_wide_inputs_under_autocast_are_multiplied_in_its_type() -> None:
    """As linear_attn calls it: fp32 features and a column of ones, so that V = 33."""
    torch.manual_seed(0)
    q, k = (torch.rand(64, 4, 256, 32, device=DEVICE).requires_grad_() for _ in range(2))
    v = torch.randn(64, 4, 256, 33, device=DEVICE).requires_grad_()
    g = torch.zeros(1, device=DEVICE)
    with torch.autocast("cuda", torch.bfloat16):
        y, _ = chunked_decay(q, k, v, g)
    assert y.dtype == torch.float32
    seed = torch.randn_like(y)
    got = [y, *torch.autograd.grad(y, (q, k, v), seed)]
    parts = [x.detach().double().requires_grad_() for x in (q, k, v)]
    exact, _ = chunked_decay(*parts, g.double())
    want = [exact, *torch.autograd.grad(exact, parts, seed.double())]
    found = [gap(a, e) for a, e in zip(got, want, strict=True)]
    assert 1e-5 < max(found) < LIMIT[torch.bfloat16], found


@gpu
@needs_gpu
def test_a_graph_replays_forward_and_backward() -> None:
    q, k, v, g, _ = (x.to(DEVICE, torch.bfloat16) for x in Problem(700, 64, 64).inputs())
    g.requires_grad_()

    def run() -> Tensor:
        return torch.autograd.grad(chunked_decay(q, k, v, g)[0].float().sum(), g)[0]

    expected = run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = run()
    got.zero_()
    graph.replay()
    assert torch.equal(got, expected)
