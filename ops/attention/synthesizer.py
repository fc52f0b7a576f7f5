"""Synthesizer: attention weights without pairs; each token, or nobody, decides its row.

    kind=dense:      Z_t = relu(x_t W_1)_h W_2h,  T numbers from the token alone
    kind=random:     Z = R_h learned [N, N];      fixed: R_h drawn once, N(0, 1)
    kind=factorized: Z = L_h R_h^T, L, R [N, rank]
    A = softmax(Z (+ q k^T / sqrt(K) with the flag `dot`)),   y = W_o concat_h A_h v

Causal with the flag `causal`. Shapes: x [B, T, D] -> [B, T, D], K = D / heads; T is at most the
length N at building. Mask: keys at padding are left out. State: values (and keys with `dot`) of all
tokens so far, and the position. Cost: 2 D^2 parameters (+ 2 D^2 for dot) and D^2 + D N (dense),
heads N^2 (random), 2 heads N rank (factorized); 4 T D^2 + 2 T^2 D FLOPs (+ 4 T D^2 + 2 T^2 D for
dot, + 2 T D^2 + 2 T^2 D dense; the factors once for the batch). Paper: Tay et al. 2020,
"Synthesizer", arXiv:2005.00743, section 3.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Int, Word
from ops.attention.engine import masked_softmax, split_heads
from ops.spec import Cost, Op, TensorType, need, need_divides


class Synthesizer(nn.Module):
    table: Tensor

    def __init__(
        self, dim: int, heads: int, causal: bool, kind: str, rank: int, dot: bool, length: int
    ) -> None:
        super().__init__()
        self.heads, self.causal, self.kind = heads, causal, kind
        width = dim // heads
        self.v = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.qk = nn.Linear(dim, 2 * dim, bias=False) if dot else None
        if kind == "dense":
            self.first = nn.Linear(dim, dim, bias=False)
            self.second = nn.Parameter(torch.randn(heads, width, length) * width**-0.5)
        elif kind == "random":
            self.table = nn.Parameter(torch.randn(heads, length, length) * 0.02)
        elif kind == "fixed":
            self.register_buffer("table", torch.randn(heads, length, length))
        else:
            self.left = nn.Parameter(torch.randn(heads, length, rank) * rank**-0.5)
            self.right = nn.Parameter(torch.randn(heads, length, rank))

    def synthesized(self, x: Tensor, place: Tensor, count: int) -> Tensor:
        """Z of the rows at `place` over the first `count` keys."""
        if self.kind == "dense":
            return split_heads(F.relu(self.first(x)), self.heads) @ self.second[:, :, :count]
        if self.kind == "factorized":
            return self.left[:, place] @ self.right[:, :count].mT
        return self.table[:, place, :count]

    def mix(
        self, x: Tensor, keys: Tensor, values: Tensor, place: Tensor, seen: Tensor | None
    ) -> Tensor:
        scores = self.synthesized(x, place, values.shape[2])
        if self.qk is not None:
            q = split_heads(F.linear(x, self.qk.weight.chunk(2)[0]), self.heads)
            scores = scores + q @ keys.mT * q.shape[-1] ** -0.5
        y: Tensor = self.out((masked_softmax(scores, seen) @ values).transpose(1, 2).flatten(2))
        return y

    def keys(self, x: Tensor) -> Tensor:
        """[B, heads, T, K]; [B, heads, T, 0] where no key is needed."""
        if self.qk is None:
            return x.new_zeros(x.shape[0], self.heads, x.shape[1], 0)
        return split_heads(F.linear(x, self.qk.weight.chunk(2)[1]), self.heads)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        place = torch.arange(x.shape[1], device=x.device)
        seen = place[:, None] >= place if self.causal else None
        if mask is not None:
            own = mask[:, None, None, :]
            seen = own if seen is None else seen & own
        return self.mix(x, self.keys(x), split_heads(self.v(x), self.heads), place, seen)

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        weight = self.out.weight
        width = weight.shape[0] // self.heads
        values = weight.new_zeros(batch, self.heads, length, width)
        keys = values.clone() if self.qk is not None else values[..., :0].clone()
        return keys, values, torch.zeros(1, dtype=torch.long, device=weight.device)

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        keys, values, place = state
        keys = keys.index_copy(2, place, self.keys(x))
        values = values.index_copy(2, place, split_heads(self.v(x), self.heads))
        seen = torch.arange(values.shape[2], device=x.device)[None] <= place[:, None]
        return self.mix(x, keys, values, place, seen), (keys, values, place + 1)


def _init(x: TensorType, **params: Any) -> dict[str, Any]:
    return {"dim": x.dim, "length": x.length, **params}


def _shape(x: TensorType, heads: int, **_: object) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    return x


def _cost(x: TensorType, heads: int, causal: bool, kind: str, rank: int, dot: bool) -> Cost:
    t, d = x.length, x.dim
    params = 2 * d * d + 2 * d * d * dot
    params += {
        "dense": d * d + d * t,
        "random": heads * t * t,
        "fixed": 0,
        "factorized": 2 * heads * t * rank,
    }[kind]
    flops = (4 * t * d * d + 2 * t * t * d) + dot * (4 * t * d * d + 2 * t * t * d)
    flops += {"dense": 2 * t * d * d + 2 * t * t * d, "factorized": 2 * heads * t * t * rank}.get(
        kind, 0
    )
    return Cost(params, flops, 8 * heads * t * t + 8 * t * d, causal * (4 * t * d * (1 + dot) + 8))


OP = Op(
    name="synthesizer",
    module=Synthesizer,
    params={
        "heads": Int(1, 64),
        "causal": Flag(),
        "kind": Word(("dense", "random", "fixed", "factorized"), default="dense"),
        "rank": Int(1, 1024, default=8),
        "dot": Flag(),
    },
    init=_init,
    shape=_shape,
    cost=_cost,
    causal=lambda x, causal, **_: causal,
    fixed_length=True,
    mask="use",
    state=True,
    uses=(split_heads, masked_softmax),
    paper="arXiv:2005.00743",
)
