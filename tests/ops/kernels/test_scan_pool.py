"""The prefix softmax kernel equals softmax over each prefix: output and gradients."""

import pytest
import torch
from torch import Tensor

from ops.kernels import scan
from ops.kernels.scan import prefix_softmax
from ops.kernels.scan_pool_kernel import PoolScan
from tests.ops.kernels.equal import DEVICE, check, made_by, poisoned, random

pytest.importorskip("triton", reason="triton has no wheel for this platform")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "swap"), [((2, 3, 19, 5), False), ((1, 18, 5, 1), True)])
def test_it_equals_its_specification(
    shape: tuple[int, ...], swap: bool, dtype: torch.dtype
) -> None:
    """Heads of five channels; and five heads of one channel, inside of time, in two tiles."""

    def laid(s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return (s.mT, v.transpose(1, 2)) if swap else (s, v)

    s, v = random(*shape[:3]), random(*shape, dtype=dtype)
    with torch.no_grad():
        s *= 5
    check(
        lambda s, v: PoolScan.apply(*laid(s, v)),
        lambda s, v: prefix_softmax(*laid(s, v)),
        [s, v],
        5e-2 if dtype == torch.bfloat16 else 1e-5,  # o in bf16 enters the gradient of s
    )


def test_tokens_that_take_no_part_and_scores_far_apart() -> None:
    """The first two tokens are padding; later scores rise by hundreds, then fall."""
    s = torch.tensor([float("-inf"), float("-inf"), -300.0, 0.0, 500.0, 499.0, -9.0, 1.0])
    s, v = s.to(DEVICE).view(1, 1, 8).requires_grad_(), random(1, 1, 8, 3)
    with poisoned():
        o = PoolScan.apply(s, v)
        found = o, *torch.autograd.grad(o.square().sum(), (s, v))
    o = prefix_softmax(s, v)
    torch.testing.assert_close(found, (o, *torch.autograd.grad(o.square().sum(), (s, v))))


def test_the_public_function_launches_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE == "cpu":
        monkeypatch.setattr(scan, "on_triton", lambda *tensors: True)
    assert made_by(prefix_softmax(random(1, 1, 3), random(1, 1, 3, 2))) == "PoolScanBackward"


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize("shape", [(2, 4, 1000, 64), (2, 3, 777, 200), (2, 96, 1000, 1)], ids=str)
def test_long_prefixes_on_a_gpu(shape: tuple[int, ...]) -> None:
    v = random(*shape, dtype=torch.bfloat16)
    check(PoolScan.apply, prefix_softmax, [random(*shape[:3]), v], 5e-2)
