"""Short convolutions equal their specification, and are what runs on a GPU."""

import pytest
import torch
from torch import Tensor

from ops.kernels.mixing import short_conv
from ops.kernels.short_kernel import ShortRows
from tests.ops.kernels.equal import DEVICE, check, made_by, random

pytest.importorskip("triton", reason="triton has no wheel for this platform")


@pytest.mark.parametrize(
    ("shape", "taps", "bias", "act", "dtype"),
    [
        ((2, 21, 24), 4, True, True, torch.float32),
        ((2, 70, 5), 3, False, True, torch.bfloat16),
        ((1, 2, 70), 4, False, False, torch.float32),
        ((3, 17, 8), 1, True, False, torch.float32),
    ],
    ids=str,
)
def test_a_short_convolution_equals_its_specification(
    shape: tuple[int, ...], taps: int, bias: bool, act: bool, dtype: torch.dtype
) -> None:
    def kernel(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        y: Tensor = ShortRows.apply(x, w, b, act, dtype)  # type: ignore[no-untyped-call]  # torch's
        return y

    def reference(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return short_conv(x, w, b, act)

    given = [random(*shape, dtype=dtype), random(shape[-1], 1, taps)]
    check(kernel, reference, [*given, random(shape[-1])] if bias else given)


def test_a_slice_of_wider_rows_and_a_gradient_of_other_strides_are_read_in_place() -> None:
    wide, w = random(2, 19, 40), random(16, 1, 4)

    def kernel(z: Tensor, w: Tensor) -> Tensor:
        y: Tensor = ShortRows.apply(z[..., 8:24], w, None, True, torch.float32)  # type: ignore[no-untyped-call]  # torch's
        return y.transpose(1, 2).contiguous()

    check(kernel, lambda z, w: short_conv(z[..., 8:24], w, None, True).transpose(1, 2), [wide, w])


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize("shape", [(64, 256, 384), (2, 1000, 768)], ids=str)
def test_on_cuda_the_kernel_serves_and_agrees_in_bfloat16(shape: tuple[int, ...]) -> None:
    x, w, b = random(*shape, dtype=torch.bfloat16), random(shape[-1], 1, 4), random(shape[-1])
    with torch.autocast("cuda", torch.bfloat16):
        y = short_conv(x, w, b, True)
    assert made_by(y) == "ShortRowsBackward"
    assert y.dtype == torch.bfloat16

    def kernel(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return short_conv(x, w, b, True)

    check(kernel, lambda x, w, b: short_conv(x, w, b, True), [x, w, b])
