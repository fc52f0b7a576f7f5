"""Simple RMS norm: divide each vector by its root mean square; no weight.

    y = x / sqrt(mean_d x_d^2 + eps)

Shapes: seq [B, T, D] and vec [B, D], kept. The mean in fp32 at least; output as
`rms_norm`'s. No parameters, no matmul.
Paper: Qin et al. 2023, "TransNormerLLM", arXiv:2307.14995, section 3 (eps from the released code).
"""

from torch import Tensor, nn

from grammar.domain import Float
from ops.kernels.rows import NORMED, normed, sum_normed
from ops.spec import Cost, Op, TensorType, need


class SimpleRMSNorm(nn.Module):
    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return normed(x, None, None, self.eps)

    def joined(self, x: Tensor, r: Tensor | None) -> tuple[Tensor, Tensor]:
        """x + r and its norm; x and its norm where nothing is added."""
        return sum_normed(x, r, None, None, self.eps)


def _shape(x: TensorType, eps: float) -> TensorType:
    need(x, "seq", "vec")
    return x


OP = Op(
    name="srms_norm",
    module=SimpleRMSNorm,
    params={"eps": Float(1e-12, 1e-1, log=True, default=1e-6)},
    shape=_shape,
    init=lambda x, eps: {"eps": eps},
    cost=lambda x, eps: Cost(),
    causal=True,
    uses=NORMED,
    paper="arXiv:2307.14995",
)
