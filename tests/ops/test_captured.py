"""Every op with `capture=True` is captured on a GPU; its replay gives the gradients of eager."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ops.graphable import asking, training_step
from search.capture import aside, no_syncs, record
from tests.ops.case import Bench, collect

every = pytest.mark.parametrize("bench", [b for b in collect() if b.op.capture], ids=str)


def _there(value: Any) -> Any:
    return tree_map(lambda v: v.cuda() if isinstance(v, Tensor) else v, value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every
@pytest.mark.filterwarnings("ignore")
def test_on_cuda_a_replayed_step_gives_the_gradients_of_an_eager_one(bench: Bench) -> None:
    device = torch.device("cuda:0")
    module, data = bench.build().to(device), asking([_there(v) for v in bench.data()])
    start = {name: b.clone() for name, b in module.named_buffers()}

    def step() -> None:
        for p in module.parameters():
            p.grad = None
        with torch.autocast("cuda", torch.bfloat16):
            training_step(bench, module, data)

    def restart() -> None:
        torch.manual_seed(0)
        for name, b in module.named_buffers():
            b.copy_(start[name])

    with aside(device):
        step()
        restart()
        with no_syncs(device):
            step()
        eager = [p.grad.clone() for p in module.parameters() if p.grad is not None]
        graph = record(step, device)
    found = [p.grad for p in module.parameters() if p.grad is not None]
    for grad in found:
        grad.fill_(torch.nan)
    restart()
    graph.replay()
    torch.cuda.synchronize()
    for mine, other in zip(found, eager, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-2, rtol=2e-2)
