"""Under bfloat16 autocast, as trials train on a GPU: no error or warning, finite gradients, a state
whose types do not change. How near the result is to fp32 is the engines' own matter."""

from typing import Any

import pytest
import torch

from ops.graphable import asking, training_step
from tests.ops.case import BATCH, Bench, collect, tensors

every = pytest.mark.parametrize("bench", collect(), ids=str)


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


@every
def test_a_training_step_runs_and_its_gradients_are_finite(bench: Bench) -> None:
    module, data = bench.build(), asking(bench.data())
    with autocast():
        training_step(bench, module, data)
    for name, parameter in module.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@every
def test_a_decoding_step_keeps_the_types_of_the_state(bench: Bench) -> None:
    if not bench.op.state or not bench.causal:
        return
    built, data = bench.build().eval(), bench.data()
    module: Any = built
    roles = [i.role for i in bench.op.inputs]
    further = [(r, v) for r, v in zip(roles, data[1:], strict=True) if v is not None]
    static = [v for role, v in further if role == "static"]
    first: Any = data[0]
    stream: list[Any] = [v for role, v in further if role == "stream"]
    with autocast(), torch.no_grad():
        state = module.init_state(BATCH, first.shape[1], *static)
        before = [(t.shape, t.dtype) for t in tensors(state)]
        _, state = module.step(first[:, :1], state, *[v[:, :1] for v in stream])
    assert [(t.shape, t.dtype) for t in tensors(state)] == before
