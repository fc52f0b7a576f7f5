"""Scan kernels equal the loop they stand for: output and every gradient, in one pass and in two."""

import pytest
import torch
from torch import Tensor

from ops.kernels import scan
from ops.kernels.scan import gated_scan, linear_scan, relu_scan
from ops.kernels.scan_kernel import (
    GatedScan,
    LinearScan,
    scan_backward,
    scan_chunk,
    scan_forward,
)
from ops.kernels.scan_relu_kernel import ReluScan
from tests.ops.kernels.equal import DEVICE, check, made_by, poisoned, random

pytest.importorskip("triton", reason="triton has no wheel for this platform")


@pytest.mark.parametrize("shape", [(2, 19, 5), (1, 1, 16)], ids=str)
def test_a_linear_scan_equals_the_loop(shape: tuple[int, int, int]) -> None:
    """Factors of either sign and beyond 1."""
    check(LinearScan.apply, linear_scan, [random(*shape), random(*shape, seed=1)], 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("kind", "count"), [("gru", 2), ("lstm", 3)])
def test_a_scan_of_gates_equals_the_scan_of_their_terms(
    kind: str, count: int, dtype: torch.dtype
) -> None:
    gates = random(2, 19, count * 8, dtype=dtype)
    check(
        lambda gates: GatedScan.apply(gates, kind, gates.dtype),
        lambda gates: gated_scan(gates, kind),
        [gates],
        1e-5 if dtype == torch.float32 else 2e-2,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_relu_scan_equals_its_specification(dtype: torch.dtype) -> None:
    """Slopes of either sign, one tile and two, ragged; units that switch on and off."""
    u, w = 0.7 * random(5).detach(), random(1, 67 if dtype == torch.float32 else 9, 5, dtype=dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    check(ReluScan.apply, relu_scan, [u.requires_grad_(), w], tolerance)


def test_a_relu_scan_that_explodes_is_finite_where_the_loop_is() -> None:
    u = torch.tensor([-8.0, 3.0], device=DEVICE, requires_grad=True)
    w = random(1, 40, 2)
    h = ReluScan.apply(u, w)
    torch.testing.assert_close(h, relu_scan(u, w), rtol=1e-4, atol=1e-4)
    assert torch.isfinite(torch.autograd.grad(h[:, :20].sum(), w)[0]).all()


def test_chunks_with_their_starting_states_give_what_one_pass_gives() -> None:
    """43 steps in chunks of 16: three passes forward and backward, the last chunk ragged."""
    z, e = random(2, 43, 16).detach(), random(2, 43, 8, seed=1).detach()
    gates, config = (z[..., :8], z[..., 8:], z[..., 8:]), (16, 16, 4)
    found = []
    for chunk in (48, 16):
        with poisoned():
            h = scan_forward(gates, "gru", torch.float32, config, chunk)
            dz = torch.empty_like(z)
            parts = dz[..., :8], dz[..., 8:], dz[..., 8:]
            scan_backward(gates, parts, h, e, "gru", config, chunk)
        found.append((h, dz))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_chunks_are_made_only_where_strips_are_too_few() -> None:
    assert scan_chunk(64, 256, 128, 64, 32) == 256
    assert scan_chunk(16, 1024, 256, 64, 32) >= 512
    assert scan_chunk(1, 65536, 512, 64, 32) <= 65536 // 32


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # NumPy, in the interpreter
def test_gates_far_from_zero_give_finite_states_and_gradients() -> None:
    gates = 60 * random(1, 8, 24).detach()
    gates.requires_grad_()
    h: Tensor = GatedScan.apply(gates, "lstm", torch.float32)
    (grad,) = torch.autograd.grad(h.sum(), gates)
    assert torch.isfinite(h).all()
    assert torch.isfinite(grad).all()


def test_the_public_functions_launch_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE == "cpu":
        monkeypatch.setattr(scan, "on_triton", lambda *tensors: True)
    x = random(1, 3, 4)
    assert made_by(linear_scan(x, x)) == "LinearScanBackward"
    assert made_by(gated_scan(x, "gru")) == "GatedScanBackward"
    assert made_by(relu_scan(x[0, 0], x)) == "ReluScanBackward"


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize("shape", [(4, 1000, 200), (1, 20000, 40), (64, 256, 128)], ids=str)
def test_long_scans_on_a_gpu(shape: tuple[int, int, int]) -> None:
    a = random(*shape).detach().sigmoid().requires_grad_()
    check(LinearScan.apply, linear_scan, [a, random(*shape, seed=1)], 1e-5)
    u = random(shape[2]).detach().sigmoid().requires_grad_()
    check(ReluScan.apply, relu_scan, [u, random(*shape, seed=2)], 1e-4)
    gates = random(*shape[:2], 3 * shape[2], dtype=torch.bfloat16)
    check(
        lambda z: GatedScan.apply(z, "lstm", z.dtype),
        lambda z: gated_scan(z, "lstm"),
        [gates],
        2e-2,
    )
