"""Attention-free transformer: every channel pools the values by its keys and learned pair biases.

    o_t = sigmoid(q_t) * sum_s e^{k_s + w_ts} * v_s / sum_s e^{k_s + w_ts}      (all per channel)
    kind=full: w = U V^T, U, V [N, rank];   local: w = 0 where |t - s| >= window;   simple: w = 0

Causal with the flag `causal` (s <= t). Shapes: x [B, T, D] -> [B, T, D], y = o W_o; T is at most
the length N at building. Mask: padding takes no part. State: full and local the keys and values of
all tokens so far, and the position; simple (m, u, w) of the prefix, 3 D numbers. full and local
subtract each channel's largest key of the whole sequence: a prefix whose keys are all 69 below
pools to 0. Cost: 4 D^2 + 2 N rank parameters; 8 T D^2 + 4 T^2 D FLOPs (and the factors once for the
batch); simple: 4 D^2; 8 T D^2 (causal + 2 T' C D, chunks of C = min(64, T), T' = T rounded up to
C). Paper: Zhai et al. 2021, "An Attention Free Transformer", arXiv:2105.14103, eq. 2-4. AFT-conv is
not here.
"""

from typing import Any

import torch
from torch import Tensor, nn

from grammar.domain import Flag, Int, Word
from ops.kernels.scan import PREFIX_SOFTMAX, prefix_softmax, softmax_union
from ops.spec import Cost, Op, TensorType, need


class AttentionFree(nn.Module):
    def __init__(
        self, dim: int, causal: bool, kind: str, rank: int, window: int, length: int
    ) -> None:
        super().__init__()
        self.causal, self.kind, self.window = causal, kind, window
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        if kind != "simple":
            self.left = nn.Parameter(torch.randn(length, rank) * 0.1)
            self.right = nn.Parameter(torch.randn(length, rank) * 0.1)

    def pool(self, k: Tensor, v: Tensor, place: Tensor, real: Tensor | None) -> Tensor:
        """full and local: the rows at `place` over all keys; `real` [B, S] or [1, S]."""
        key = torch.arange(k.shape[1], device=k.device)
        gap = place[:, None] - key
        bias = (self.left[place] @ self.right[: k.shape[1]].mT).to(k.dtype)
        if self.kind == "local":
            bias = bias * (gap.abs() < self.window)
        low = torch.finfo(k.dtype).min
        if self.causal:
            bias = bias.masked_fill(gap < 0, low)
        pair = (bias - bias.detach().amax(-1, keepdim=True)).exp()
        if real is not None:
            k = k.masked_fill(~real[..., None], low)
        own = (k - k.detach().amax(1, keepdim=True)).exp()
        own = own if real is None else own * real[..., None]
        total = pair @ own
        return pair @ (own * v) / torch.where(total > 1e-30, total, 1.0)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        wide = torch.promote_types(x.dtype, torch.float32)
        k, v = k.to(wide), v.to(wide)
        if self.kind != "simple":
            o = self.pool(k, v, torch.arange(x.shape[1], device=x.device), mask)
        elif self.causal:
            e = k if mask is None else k.masked_fill(~mask[..., None], float("-inf"))
            o = prefix_softmax(e.mT, v.mT[..., None])[..., 0].mT
        else:
            e = k if mask is None else k.masked_fill(~mask[..., None], torch.finfo(wide).min)
            o = (e.softmax(1) * v).sum(1, keepdim=True)
        y: Tensor = self.out((q.sigmoid() * o).to(x.dtype))
        return y

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        weight, dim = self.out.weight, self.out.in_features
        wide = torch.promote_types(weight.dtype, torch.float32)
        if self.kind == "simple":
            zeros = weight.new_zeros(batch, dim, 1, dtype=wide)
            return zeros[..., 0] + torch.finfo(wide).min, zeros[..., 0].clone(), zeros
        cache = weight.new_zeros(2, batch, length, dim, dtype=wide)
        return cache[0], cache[1], torch.zeros(1, dtype=torch.long, device=weight.device)

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        q, k, v = self.qkv(x).chunk(3, -1)
        wide = state[0].dtype
        k, v = k.to(wide), v.to(wide)
        if self.kind == "simple":
            token = (k[:, 0], torch.ones_like(k[:, 0]), v[:, 0, :, None])
            state = softmax_union(state, token)
            o = (state[2][..., 0] / state[1])[:, None]
        else:
            keys, values, place = state
            keys, values = keys.index_copy(1, place, k), values.index_copy(1, place, v)
            real = torch.arange(keys.shape[1], device=x.device)[None] <= place
            o, state = self.pool(keys, values, place, real), (keys, values, place + 1)
        return self.out((q.sigmoid() * o).to(x.dtype)), state


def _init(x: TensorType, **params: Any) -> dict[str, Any]:
    return {"dim": x.dim, "length": x.length, **params}


def _shape(x: TensorType, **_: object) -> TensorType:
    need(x, "seq")
    return x


def _cost(x: TensorType, causal: bool, kind: str, rank: int, window: int) -> Cost:
    t, d = x.length, x.dim
    if kind != "simple":
        flops = 8 * t * d * d + 4 * t * t * d + 2 * t * t * rank
        return Cost(4 * d * d + 2 * t * rank, flops, 24 * t * d, causal * (8 * t * d + 8))
    size = min(64, t)
    padded = -(-t // size) * size
    flops = 8 * t * d * d + causal * 2 * padded * size * d
    return Cost(4 * d * d, flops, 24 * t * d, causal * 12 * d)


OP = Op(
    name="aft",
    module=AttentionFree,
    params={
        "causal": Flag(),
        "kind": Word(("full", "local", "simple"), default="full"),
        "rank": Int(1, 1024, default=128),
        "window": Int(1, 65536, log=True, default=64),
    },
    init=_init,
    shape=_shape,
    cost=_cost,
    causal=lambda x, causal, **_: causal,
    fixed_length=True,
    mask="use",
    state=True,
    uses=PREFIX_SOFTMAX,
    paper="arXiv:2105.14103",
)
