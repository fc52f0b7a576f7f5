"""HGRN-2: a gated linear recurrence whose key is what the forget gate leaves open.

    f_t = b + (1 - b) sigmoid(x_t W_f),   q = silu(x W_q),   v = x W_v
    S_t = diag(f_t) S_{t-1} + (1 - f_t) v_t^T,   o_t = S_t^T q_t
    y = (w * RMS_D(o)) W_o,   b = l / L for layer l = 0..L-1

Causal. Shapes: x [B, T, D] -> [B, T, D]; K = V = `head_dim` (the paper's expansion), D / K heads;
no scale; the norm is over the merged D, eps 1e-5. Mask: f = 1 at padding.
b is the lower bound of the gates: later layers remember longer. `depth` is L, the number of such
layers; 1, the default, is b = 0, as in the paper's first layer.
State: S [B, D / K, K, K]. Cost: 4 D^2 + D parameters; 8 T D^2 and `diagonal_flops`.
Paper: Qin et al. 2024, arXiv:2404.07904, section 3. Differs: b stays what the paper's cumulative
softmax over the layers is at its start, instead of being learned for all layers together.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Int
from ops.kernels.diagonal import DIAGONAL, chunked_diagonal, diagonal_flops, diagonal_step
from ops.kernels.mixing import HEAD_OUTPUT, head_output, heads_first
from ops.spec import Cost, Op, TensorType, need, need_divides


class HGRN2(nn.Module):
    def __init__(self, dim: int, head_dim: int, bound: float = 0.0) -> None:
        super().__init__()
        self.heads, self.width, self.bound, self.eps = dim // head_dim, head_dim, bound, 1e-5
        self.qfv = nn.Linear(dim, 3 * dim, bias=False)
        self.norm = nn.Parameter(torch.ones(dim))
        self.out = nn.Linear(dim, dim, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k = 1 - f, v and g = log f [B, heads, T, K]; no difference of nearly equal numbers."""
        q, f, v = (heads_first(z, self.heads) for z in self.qfv(x).chunk(3, -1))
        f = f.to(torch.promote_types(f.dtype, torch.float32))
        g = F.logsigmoid(f)
        if self.bound:
            low = torch.full_like(g, math.log(self.bound))
            g = torch.logaddexp(low, g + math.log1p(-self.bound)).clamp_max(0.0)
        return F.silu(q), (1 - self.bound) * torch.sigmoid(-f), v, g

    def merge(self, o: Tensor) -> Tensor:
        y: Tensor = self.out(head_output(o, None, self.norm, self.eps, whole=True))
        return y

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v, g = self.project(x)
        if mask is not None:
            k, g = k * mask[:, None, :, None], g * mask[:, None, :, None]
        return self.merge(chunked_diagonal(q, k, v, g)[0])

    def init_state(self, batch: int, length: int) -> Tensor:
        wide = torch.promote_types(self.norm.dtype, torch.float32)
        return self.norm.new_zeros(batch, self.heads, self.width, self.width, dtype=wide)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v, g = (z[:, :, 0] for z in self.project(x))
        o, state = diagonal_step(q, k, v, g, state)
        return self.merge(o[:, :, None]), state


def _shape(x: TensorType, head_dim: int, depth: int, layer: int) -> TensorType:
    need(x, "seq")
    need_divides(head_dim, x.dim, param="head_dim")
    return x


def _init(x: TensorType, head_dim: int, depth: int, layer: int) -> dict[str, Any]:
    return {"dim": x.dim, "head_dim": head_dim, "bound": min(layer, depth - 1) / depth}


def _cost(x: TensorType, head_dim: int, depth: int, layer: int) -> Cost:
    t, d = x.length, x.dim
    flops = 8 * t * d * d + diagonal_flops(t, d // head_dim, head_dim, head_dim)
    return Cost(4 * d * d + d, flops, 4 * t * 44 * d, 4 * d * head_dim)


OP = Op(
    name="hgrn2",
    module=HGRN2,
    params={"head_dim": Int(1, 1024, log=True, default=128), "depth": Int(1, 256, default=1)},
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=True,
    mask="use",
    state=True,
    needs=("layer",),
    uses=(heads_first, *HEAD_OUTPUT, *DIAGONAL),
    paper="arXiv:2404.07904",
)
