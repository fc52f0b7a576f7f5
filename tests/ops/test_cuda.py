"""On a GPU every op computes what it computes on the CPU, and a graph holds its training step."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ops.contract import stepped
from tests.ops.case import Bench, close, collect, tensors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
every = pytest.mark.parametrize("bench", collect(), ids=str)


def moved(values: list[Any], device: str = "cuda") -> list[Any]:
    """Copies on a device; floating ones ask for gradients."""

    def move(value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        there = value.detach().to(device, copy=True)
        return there.requires_grad_() if there.is_floating_point() else there

    return [tree_map(move, value) for value in values]


def loss_of(bench: Bench, returned: dict[str, Any]) -> torch.Tensor:
    parts = [t for v in bench.values(returned) for t in tensors(v) if t.requires_grad]
    parts += [returned["aux"]] if "aux" in returned else []
    return torch.stack([p.square().mean() for p in parts]).sum()


@every
def test_the_gpu_agrees_with_the_cpu(bench: Bench) -> None:
    module, data = bench.build(dtype=torch.float64).eval(), bench.data(dtype=torch.float64)
    there = copy.deepcopy(module).cuda()
    mine, theirs = bench.call(module, moved(data, "cpu")), bench.call(there, moved(data))
    for a, b in zip(tensors(bench.values(theirs)), tensors(bench.values(mine)), strict=True):
        close(a.cpu(), b, scale=10)
    if not any(p.requires_grad for p in module.parameters()):
        return
    loss_of(bench, mine).backward()
    loss_of(bench, theirs).backward()
    for p, q in zip(there.parameters(), module.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)  # noise of training alone, in eval
        if p.grad is not None and q.grad is not None:
            close(p.grad.cpu(), q.grad, scale=10)


@every
def test_steps_on_the_gpu_agree(bench: Bench) -> None:
    if not bench.op.state or not bench.causal:
        return
    module = bench.build(dtype=torch.float64).eval().cuda()
    data = moved(bench.data(dtype=torch.float64))
    with torch.no_grad():
        whole = bench.values(bench.call(module, data))[0]
        y, _ = stepped(bench, module, data)
    close(y, whole, scale=10)


@every
def test_a_training_step_is_captured(bench: Bench) -> None:
    if not bench.op.capture:
        pytest.skip("capture=False: see the op's page")
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
