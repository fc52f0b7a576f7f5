"""The Triton delta rule against its float64 reference: outputs, states, every gradient.

On a CPU the kernels run under Triton's interpreter in fp32; on a GPU in bf16 too, and larger.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from ops.kernels import delta
from ops.kernels.delta import chunked_delta

pytest.importorskip("triton", reason="triton has no wheel for this platform")

from ops.kernels.delta_launch import delta_config, delta_triton
from tests.ops.kernels.test_chunked_kernel import DEVICE, LIMIT, gap, gpu, needs_gpu, poisoned


@dataclass(frozen=True)
class Problem:
    length: int
    key: int
    value: int
    heads: int = 1
    batch: int = 1
    gated: bool = True
    state: bool = True
    dtype: torch.dtype = torch.float32
    span: int = 0  # tokens of a segment; 0: as configured

    def sizes(self) -> dict[str, int]:
        wide = self.dtype == torch.float32
        config = delta_config(self.length, self.batch * self.heads, self.key, self.value, wide)
        return config | ({"span": self.span} if self.span else {})

    def inputs(self) -> list[Tensor]:
        """q, k (of length one, alike), v, b, g and the state in float64, exact in narrow types."""
        torch.manual_seed(self.length + self.key)
        b, h, t = self.batch, self.heads, self.length
        q = torch.randn(b, h, t, self.key).to(self.dtype).double() * 2**-3
        k = F.normalize(torch.randn(b, h, t, self.key) + 0.5, dim=-1).to(self.dtype).double()
        v = torch.randn(b, h, t, self.value).to(self.dtype).double()
        g = -0.2 * torch.rand((b, h, t) if self.gated else (h, 1))
        first = [torch.randn(b, h, self.key, self.value).double()] if self.state else []
        return [q, k, v, torch.rand(b, h, t).double(), g.double(), *first]


def errors(problem: Problem, inputs: list[Tensor] | None = None) -> dict[str, float]:
    """The relative error of o, the last state and the gradient of each input."""
    exact = [x.clone().requires_grad_() for x in inputs or problem.inputs()]
    exact[4].requires_grad_(problem.gated)
    low = [
        x.detach().to(DEVICE, problem.dtype if n < 3 else torch.float32)
        for n, x in enumerate(exact)
    ]
    for x, e in zip(low, exact, strict=True):
        x.requires_grad_(e.requires_grad)
    want = chunked_delta(*exact)
    state = low[5] if problem.state else None
    got = delta_triton(*low[:5], state, config=problem.sizes())
    seeds = [torch.randn_like(x.cpu()).to(DEVICE) for x in got]
    wanted = [x for x in exact if x.requires_grad]
    want_grads = torch.autograd.grad(want, wanted, [s.double().cpu() for s in seeds])
    got_grads = torch.autograd.grad(got, [x for x in low if x.requires_grad], seeds)
    names = ["o", "last", "dq", "dk", "dv", "db", *(["dg"] if problem.gated else []), "dstate"]
    pairs = zip([*got, *got_grads], [*want, *want_grads], strict=True)
    return {n: gap(a, e) for n, (a, e) in zip(names, pairs, strict=False)}


SMALL = [
    Problem(70, 24, 40),
    Problem(37, 16, 8, gated=False, heads=2),
    Problem(1, 16, 16),
    Problem(150, 16, 24, span=64),
    Problem(150, 24, 16, state=False, gated=False, span=128),
]


@pytest.mark.parametrize("problem", SMALL, ids=str)
def test_outputs_and_gradients_of_ragged_problems(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(monkeypatch)
    found = errors(problem)
    assert max(found.values()) <= LIMIT[problem.dtype], found


def test_a_reset_spoils_no_decay_behind_it() -> None:
    problem = Problem(50, 16, 16)
    inputs = problem.inputs()
    inputs[4] *= 0.05
    inputs[4][:, :, 20] = -1e5
    found = errors(problem, inputs)
    assert max(found.values()) <= LIMIT[problem.dtype], found
    low = [x.to(DEVICE, torch.float32) for x in inputs]
    y, last = delta_triton(*low)
    low[4][:, :, 20] = float("-inf")
    same, again = delta_triton(*low)
    assert torch.equal(y, same)
    assert torch.equal(last, again)


def test_the_public_function_takes_the_kernel_where_it_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[torch.Size] = []

    def counted(*parts: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(parts[0].shape)
        return parts[2], parts[2]

    monkeypatch.setattr(delta, "delta_triton", counted)
    monkeypatch.setattr(delta, "on_triton", lambda *x: True)
    q, k, v, beta, g, _ = Problem(5, 16, 16).inputs()
    chunked_delta(q, k, v, beta, g)
    assert calls == [q.shape]
    wide = torch.zeros(1, 1, 5, 200).double()
    chunked_delta(wide, wide, v, beta, g)  # K > 128: the reference
    assert calls == [q.shape]


LARGE = [
    Problem(n, d, d, heads=4, batch=2, gated=gated, dtype=t)
    for n, d, gated, t in [
        (1000, 64, False, torch.bfloat16),
        (4096, 64, True, torch.bfloat16),
        (1000, 128, True, torch.bfloat16),
        (1000, 64, True, torch.float16),
        (300, 48, True, torch.float32),
        (300, 128, False, torch.float32),
    ]
] + [
    Problem(1000, 128, 256, heads=3, dtype=torch.bfloat16),
    Problem(4000, 64, 64, heads=2, dtype=torch.bfloat16, span=512),
    Problem(2000, 128, 128, dtype=torch.bfloat16, span=512),
]


@gpu
@needs_gpu
@pytest.mark.parametrize("problem", LARGE, ids=str)
def test_larger_problems_on_the_device(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch)
    found = errors(problem)
    assert max(found.values()) <= 2 * LIMIT[problem.dtype], found


@gpu
@needs_gpu
def test_an_ops_forward_and_backward_launch_the_kernels() -> None:
    q, k, v, beta, g, _ = (x.to(DEVICE, torch.bfloat16) for x in Problem(700, 64, 64).inputs())
    q.requires_grad_()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as seen:
        chunked_delta(q, k, v, beta, g)[0].sum().backward()
        torch.cuda.synchronize()
    names = {e.key for e in seen.key_averages()}
    assert {"delta_solve", "delta_walk", "delta_back", "delta_grads"} <= names
