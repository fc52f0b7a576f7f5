"""Approximate attention: exp is replaced by its Taylor polynomial of second order.

    a_ts = f(z_ts) / sum_{u<=t} f(z_tu),   f(z) = 1 + z + z^2 / 2 >= 1/2,   z = q k^T / sqrt(K)
    f(q.k) = phi(q) . phi(k),   phi(x) = [1, x, vec(x x^T) / sqrt(2)]  (x scaled by K^(-1/4))

Causal with the flag `causal`. Shapes: x [B, T, D] -> [B, T, D], K = D / heads. One denominator: the
paper's appendix normalises three terms apart, where a sum may be 0. `forward` is quadratic, `step`
recurrent. Mask: keys at padding are left out. State: sum phi(k) v^T and sum phi(k), [B, heads, 1 +
K + K^2, K + 1], and the position: constant. Cost: 4 D^2 parameters; 8 T D^2 + 4 T^2 D FLOPs. Paper:
"Deconstructing Attention", arXiv:2510.11602, variant "approximate"; Arora et al. 2024, "Based",
arXiv:2402.18668, section 4.1 (one denominator).
"""

import torch
from torch import Tensor

from ops.attention.engine import (
    ENGINE,
    ScoreAttention,
    attention_cost,
    attention_shape,
    head_params,
)
from ops.spec import Cost, Op, TensorType


class ApproximateAttention(ScoreAttention):
    def weigh(self, scores: Tensor, seen: Tensor | None) -> Tensor:
        weights = 1 + scores + scores.square() / 2
        if seen is not None:
            weights = weights * seen
        return weights / weights.sum(-1, keepdim=True).clamp_min(0.25)  # 0 where no key is seen

    def features(self, z: Tensor) -> Tensor:
        """phi, [B, heads, T, 1 + K + K^2]."""
        z = z * self.scale**0.5
        square = (z[..., :, None] * z[..., None, :]).flatten(-2) * 0.5**0.5
        return torch.cat([torch.ones_like(z[..., :1]), z, square], dim=-1)

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # recurrent
        weight, width = self.out.weight, self.width
        wide = torch.promote_types(weight.dtype, torch.float32)
        rows = 1 + width + width**2
        total = weight.new_zeros(batch, self.heads, rows, width + 1, dtype=wide)
        return total, torch.zeros(1, dtype=torch.long, device=weight.device)

    def step(  # type: ignore[override]  # recurrent
        self, x: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        total, place = state
        q, k, v = (z.to(total.dtype) for z in self.project(x, x, place))
        value = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
        total = total + self.features(k).mT @ value
        mixed = self.features(q) @ total
        y = (mixed[..., :-1] / mixed[..., -1:]).to(x.dtype)
        return self.merge(y), (total, place + 1)


def _cost(x: TensorType, heads: int, causal: bool, pos: str) -> Cost:
    cost, width = attention_cost(x, heads, causal), x.dim // heads
    state = causal * (4 * heads * (1 + width + width**2) * (width + 1) + 8)
    return Cost(cost.params, cost.flops, cost.activation, state)


OP = Op(
    name="approx_attn",
    module=ApproximateAttention,
    params=head_params("none", "rope"),
    shape=lambda x, heads, causal, pos: attention_shape(x, heads, pos),
    cost=_cost,
    causal=lambda x, causal, **_: causal,
    mask="use",
    state=True,
    uses=ENGINE,
    paper="arXiv:2510.11602",
)
