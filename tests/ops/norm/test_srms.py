"""Simple RMS norm: invariant to scale, of length sqrt(D)."""

import torch

from ops.norm.srms import SimpleRMSNorm
from ops.spec import seq, vec
from tests.ops.case import Case, close

OP_NAME = "srms_norm"
CASES = [Case(seq(9, 12, may_pad=True)), Case(vec(7), {"eps": 1e-3})]


def test_scale_does_not_matter_and_the_length_is_sqrt_dim() -> None:
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    norm = SimpleRMSNorm(eps=0.0)
    close(norm(3.0 * x), norm(x))
    close(norm(x).norm(dim=-1), torch.full((2, 5), 4.0, dtype=torch.float64))
