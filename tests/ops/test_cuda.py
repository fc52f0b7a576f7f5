"""On a GPU every attention op computes what it computes on the CPU, and a graph captures it."""

import copy
from typing import Any

import pytest
import torch

from ops import families
from tests.ops.case import BATCH, Bench, close, collect, tensors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
FAMILY = [b for b in collect() if families()[b.op.name] == "attention"]
every = pytest.mark.parametrize("bench", FAMILY, ids=str)


def moved(values: list[Any]) -> list[Any]:
    """Copies on the GPU; floating ones ask for gradients."""
    found = [None if v is None else v.detach().cuda() for v in values]
    return [v.requires_grad_() if v is not None and v.is_floating_point() else v for v in found]


def loss_of(bench: Bench, returned: dict[str, Any]) -> torch.Tensor:
    parts = [t for v in bench.values(returned) for t in tensors(v) if t.requires_grad]
    parts += [returned["aux"]] if "aux" in returned else []
    return torch.stack([p.square().mean() for p in parts]).sum()


@every
def test_the_gpu_agrees_with_the_cpu(bench: Bench) -> None:
    module, data = bench.build(dtype=torch.float64).eval(), bench.data(dtype=torch.float64)
    there = copy.deepcopy(module).cuda()
    here = [v.requires_grad_() if v is not None and v.is_floating_point() else v for v in data]
    far = moved(here)
    mine, theirs = bench.call(module, here), bench.call(there, far)
    for a, b in zip(bench.values(theirs), bench.values(mine), strict=True):
        close(a.cpu(), b, scale=10)
    if not any(p.requires_grad for p in module.parameters()):
        return
    loss_of(bench, mine).backward()
    loss_of(bench, theirs).backward()
    for p, q in zip(there.parameters(), module.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        close(p.grad.cpu(), q.grad, scale=10)


@every
def test_steps_on_the_gpu_agree(bench: Bench) -> None:
    if not bench.op.state or not bench.causal:
        return
    module = bench.build(dtype=torch.float64).eval().cuda()
    data = [v if v is None else v.cuda() for v in bench.data(dtype=torch.float64)]
    with torch.no_grad():
        whole = bench.values(bench.call(module, data))[0]
        state, parts = module.init_state(BATCH, whole.shape[1]), []
        for t in range(whole.shape[1]):
            now = [v[:, t : t + 1] for v in data[1:] if v is not None]
            y, state = module.step(data[0][:, t : t + 1], state, *now)
            parts.append(y)
    close(torch.cat(parts, 1), whole, scale=10)


@every
def test_a_training_step_is_captured(bench: Bench) -> None:
    module = bench.build().cuda().eval()
    data = moved(bench.data())
    if not list(module.parameters()):
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # warm up where the gradients' nodes will live
        for _ in range(3):
            module.zero_grad(set_to_none=True)
            eager = loss_of(bench, bench.call(module, data))
            eager.backward()
            eager = eager.detach()
        want = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
        module.zero_grad(set_to_none=True)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        loss = loss_of(bench, bench.call(module, data))
        loss.backward()
    graph.replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(loss, eager, rtol=1e-4, atol=1e-5)
    for parameter, gradient in zip(module.parameters(), want, strict=True):
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-4)
