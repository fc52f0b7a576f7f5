"""RMS norm: scale invariance and its relation to layer norm."""

import torch

from ops.norm.rms import RMSNorm
from ops.spec import image, seq, vec
from tests.ops.case import Case, close

OP_NAME = "rms_norm"
CASES = [
    Case(seq(9, 12, may_pad=True)),
    Case(vec(7), {"eps": 1e-3}),
    Case(image(5, 4, 3)),
]


def test_scaling_the_input_changes_nothing() -> None:
    norm = RMSNorm(16, eps=1e-12).double()
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    close(norm(3.0 * x), norm(x), scale=1e4)


def test_on_zero_mean_rows_it_is_layer_norm() -> None:
    x = torch.randn(3, 16)
    x = x - x.mean(-1, keepdim=True)
    expected = torch.nn.functional.layer_norm(x, (16,), eps=1e-6)
    close(RMSNorm(16)(x), expected)
