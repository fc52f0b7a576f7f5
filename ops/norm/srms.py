"""Simple RMS norm: divide each vector by its root mean square; no weight.

    y = x / sqrt(mean_d x_d^2 + eps)

Shapes: seq [B, T, D] and vec [B, D], kept. The mean in fp32 at least. No parameters, no matmul.
Paper: Qin et al. 2023, "TransNormerLLM", arXiv:2307.14995, section 3 (eps from the released code).
"""

from torch import Tensor, nn

from grammar.domain import Float
from ops.kernels.mixing import head_norm
from ops.spec import Cost, Op, TensorType, need


class SimpleRMSNorm(nn.Module):
    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return head_norm(x, self.eps)


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
    uses=(head_norm,),
    paper="arXiv:2307.14995",
)
