"""gMLP: an MLP whose hidden half is gated by a learned linear map over the tokens.

    [z_1 | z_2] = gelu(x U + c),   y = (z_1 * (W LN(z_2) + b)) V + d,   W [N, N] near 0, b = 1

W is over the tokens, the same for all channels: tril(W) with the flag `causal`, else not causal.
Shapes: x [B, T, D] -> [B, T, D]; T is at most the length N at building; z_1 and z_2 have
E = mult D / 2 channels, rounded up. LN with scale and shift, eps 1e-5.
Mask: LN(z_2) is zero at padding. State (causal): LN(z_2) of all tokens so far and the position.
Cost: 3 D E + 4 E + D + N^2 + N parameters; 6 T D E + 2 T^2 E FLOPs.
Paper: Liu et al. 2021, "Pay Attention to MLPs", arXiv:2105.08050, section 2 (mult 6 in its masked
language models; its norm before the block and its residual are words of their own here).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Int
from ops.kernels.mixing import blank
from ops.spec import Cost, Op, TensorType, need


class GatingMLP(nn.Module):
    def __init__(self, dim: int, half: int, causal: bool, length: int) -> None:
        super().__init__()
        self.causal = causal
        self.up = nn.Linear(dim, 2 * half)
        self.norm = nn.LayerNorm(half)
        self.spatial = nn.Parameter(torch.empty(length, length).uniform_(-1e-3, 1e-3) / length)
        self.bias = nn.Parameter(torch.ones(length, 1))
        self.down = nn.Linear(half, dim)

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z_1 and LN(z_2)."""
        a, b = F.gelu(self.up(x)).chunk(2, -1)
        return a, self.norm(b)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        size = x.shape[1]
        z, seen = self.halves(x)
        weight = self.spatial[:size, :size]
        weight = weight.tril() if self.causal else weight
        y: Tensor = self.down(z * (weight @ blank(seen, mask) + self.bias[:size]))
        return y

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        weight = self.spatial
        seen = weight.new_zeros(batch, weight.shape[0], self.down.in_features)
        return seen, torch.zeros(1, dtype=torch.long, device=weight.device)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        seen, place = state
        z, now = self.halves(x)
        seen = seen.index_copy(1, place, now)  # later places hold zeros
        gate = self.spatial.index_select(0, place) @ seen + self.bias.index_select(0, place)
        return self.down(z * gate), (seen, place + 1)


def _half(x: TensorType, mult: int) -> int:
    return -(-mult * x.dim // 2)


def _shape(x: TensorType, mult: int, causal: bool) -> TensorType:
    need(x, "seq")
    return x


def _init(x: TensorType, mult: int, causal: bool) -> dict[str, int | bool]:
    return {"dim": x.dim, "half": _half(x, mult), "causal": causal, "length": x.length}


def _cost(x: TensorType, mult: int, causal: bool) -> Cost:
    t, d, e = x.length, x.dim, _half(x, mult)
    params = 3 * d * e + 4 * e + d + t * t + t
    flops = 6 * t * d * e + 2 * t * t * e
    return Cost(params, flops, 4 * t * (8 * e + t), causal * (4 * t * e + 8))


OP = Op(
    name="gmlp",
    module=GatingMLP,
    params={"mult": Int(1, 16, default=6), "causal": Flag()},
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=lambda x, causal, **_: causal,
    mask="use",
    state=True,
    fixed_length=True,
    uses=(blank,),
    paper="arXiv:2105.08050",
)
