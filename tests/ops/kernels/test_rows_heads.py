"""The output of linear mixers: norm of heads, gains and gate in one kernel equal plain PyTorch."""

import pytest
import torch
from torch import Tensor

from ops.kernels import mixing
from ops.kernels.mixing import head_output, heads_last, unit_heads
from ops.kernels.rows_heads_kernel import HeadRows
from tests.ops.kernels.equal import DEVICE, check, made_by, random

pytest.importorskip("triton", reason="triton has no wheel for this platform")
EPS = 1e-5
NOTHING = (None,) * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("act", ["silu", "none"])
def test_an_output_equals_its_specification(act: str, whole: bool, dtype: torch.dtype) -> None:
    """Heads inside of time, a gate that is the right half of a projection, a ragged last tile."""
    b, h, t, k = 2, 3, 67, 12
    inputs = random(b, t, h, k, dtype=dtype), random(b, t, 2 * h * k, dtype=dtype)
    weight = random(h * k if whole else k)

    def laid(o: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return o.transpose(1, 2), z.chunk(2, -1)[1]

    check(
        lambda o, z, w: HeadRows.apply(
            *laid(o, z), w, None, None, (EPS, 1.0, act, False, whole, dtype)
        ),
        lambda o, z, w: head_output(*laid(o, z), w, EPS, act=act, whole=whole),
        [*inputs, weight],
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_skip_and_a_gate_before_the_norm_equal_their_specification(dtype: torch.dtype) -> None:
    o, x = random(2, 3, 9, 8, dtype=dtype), random(2, 9, 3, 8, dtype=dtype, seed=1)
    gate, weight, skip = random(2, 9, 24, dtype=dtype), random(24), random(3)
    kind = EPS, 1.0, "silu", True, True, dtype
    check(
        lambda o, z, w, x, d: HeadRows.apply(o, z, w, x.transpose(1, 2), d, kind),
        lambda o, z, w, x, d: head_output(
            o, z, w, EPS, early=True, whole=True, extra=(x.transpose(1, 2), d)
        ),
        [o, gate, weight, x, skip],
    )


def test_gate_and_gains_may_be_absent() -> None:
    for shape in [(1, 1, 5, 16), (2, 4, 3, 8)]:
        check(
            lambda o: HeadRows.apply(o, *NOTHING, (EPS, 0.3, "silu", False, False, torch.float32)),
            lambda o: heads_last(unit_heads(o, EPS, 0.3)),
            [random(*shape)],
        )


def test_the_public_function_launches_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    if DEVICE == "cpu":
        monkeypatch.setattr(mixing, "on_triton", lambda *tensors: True)
    assert made_by(head_output(random(1, 2, 3, 4), None, None, EPS)) == "HeadRowsBackward"


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize(("heads", "width"), [(4, 32), (8, 64), (4, 256), (16, 256), (3, 80)])
def test_wide_outputs_on_a_gpu(heads: int, width: int) -> None:
    bf16 = torch.bfloat16
    inputs = [
        random(3, heads, 501, width, dtype=bf16),
        random(3, 501, heads * width, dtype=bf16),
        random(width),
    ]
    check(
        lambda o, g, w: HeadRows.apply(o, g, w, None, None, (EPS, 1.0, "silu", False, False, bf16)),
        lambda o, g, w: head_output(o, g, w, EPS),
        inputs,
    )
