"""Differential attention: the difference of two softmax maps reads values of twice the width.

    A_m = softmax(q_m k_m^T / sqrt(K)), m = 1, 2,     O = (A_1 - lambda A_2) V
    lambda = exp(a_1 . b_1) - exp(a_2 . b_2) + lambda_0,   lambda_0 = 0.8 - 0.6 exp(-0.3 l)
    y = W_o concat_h (1 - lambda_0) RMS_2K(O_h)

Causal with the flag `causal`. Shapes: x [B, T, D] -> [B, T, D], K = D / (2 heads): `heads` pairs of
queries and keys of width K, values of width 2 K. a, b [K] start at N(0, 0.1^2), shared by the
heads; l is the index of the op in the model, from 0. The norm has one weight [2 K] for all heads.
Mask: keys at padding are left out. State: keys and values of all tokens so far, and the position.
Cost: 4 D^2 + 6 K parameters; 8 T D^2 + 4 T^2 D FLOPs.
Paper: Ye et al. 2024, "Differential Transformer", arXiv:2410.05258, eq. 1-3.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.attention.engine import (
    ENGINE,
    ScoreAttention,
    attention_cost,
    attention_shape,
    head_params,
    masked_softmax,
    split_heads,
)
from ops.kernels.positions import rotary
from ops.spec import Cost, Mismatch, Op, TensorType


class DifferentialAttention(ScoreAttention):
    def __init__(
        self, dim: int, heads: int, causal: bool = False, pos: str = "none", layer: int = 0
    ) -> None:
        super().__init__(dim, heads, causal, pos)
        self.scale = (self.width // 2) ** -0.5
        self.start = 0.8 - 0.6 * math.exp(-0.3 * layer)
        self.pairs = nn.Parameter(0.1 * torch.randn(2, 2, self.width // 2))
        self.norm = nn.Parameter(torch.ones(self.width))

    def project(self, x: Tensor, kv: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, v = self.kv(kv).chunk(2, -1)
        q, k = split_heads(self.q(x), 2 * self.heads), split_heads(k, 2 * self.heads)
        if self.pos == "rope":
            q, k = rotary(q, place), rotary(k, place)
        return q, k, split_heads(v, self.heads)

    def share(self) -> Tensor:
        """lambda, a scalar."""
        first, second = (self.pairs[:, 0] * self.pairs[:, 1]).sum(-1).exp()
        share: Tensor = first - second + self.start
        return share

    def weigh(self, scores: Tensor, seen: Tensor | None) -> Tensor:
        maps = torch.unflatten(masked_softmax(scores, seen), 1, (-1, 2))
        return maps[:, :, 0] - self.share() * maps[:, :, 1]

    def merge(self, y: Tensor) -> Tensor:
        return super().merge(
            (1 - self.start) * F.rms_norm(y, (self.width,), None, 1e-5) * self.norm
        )

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        weight, heads = self.out.weight, self.heads
        keys = weight.new_zeros(batch, 2 * heads, length, self.width // 2)
        values = weight.new_zeros(batch, heads, length, self.width)
        return keys, values, torch.zeros(1, dtype=torch.long, device=weight.device)


def _shape(x: TensorType, heads: int, causal: bool, pos: str, layer: int) -> TensorType:
    attention_shape(x, heads)
    if x.dim // heads % (4 if pos == "rope" else 2):
        even = "a multiple of 4" if pos == "rope" else "even"
        raise Mismatch(f"the head width {x.dim // heads} is not {even}", param="heads")
    return x


def _cost(x: TensorType, heads: int, causal: bool, pos: str, layer: int) -> Cost:
    return attention_cost(x, 2 * heads, causal, params=3 * (x.dim // heads))


OP = Op(
    name="diff_attn",
    module=DifferentialAttention,
    params=head_params("none", "rope"),
    shape=_shape,
    cost=_cost,
    causal=lambda x, causal, **_: causal,
    needs=("layer",),
    mask="use",
    state=True,
    uses=ENGINE,
    paper="arXiv:2410.05258",
)
