"""What no CUDA graph can hold is seen on a CPU; the contract suite runs the clauses for all ops."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ops.graphable import faults


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x[x > 0].sum(),
        lambda x: x * float(x.detach().sum()),
        lambda x: x * x.new_tensor([2.0, 3.0]),
        lambda x: x.sigmoid().cumprod(0),  # its gradient asks whether there are zeros
        lambda x: x if x.sum() > 0 else -x,
    ],
)
def test_a_fault_is_seen(work: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert faults(lambda: torch.autograd.backward(work(x).sum()))
    assert not faults(lambda: torch.autograd.backward((x * 2).cumsum(0).sum()))
    with torch.device("meta"), pytest.raises(RuntimeError, match="meta"):
        x + torch.arange(2)
