"""DeltaNet: linear attention that replaces a key's old value instead of adding to it.

    q, k, v = silu(conv(x W_q)), silu(conv(x W_k)), silu(conv(x W_v));  q, k over their lengths
    b_t = sigmoid(x_t W_b),   S_t = (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T
    o_t = S_t^T q_t / sqrt(K),   y = (w * RMS_K(o)) W_o

Causal. Shapes: x [B, T, D] -> [B, T, D], K = D / heads; depthwise causal convolutions of `kernel`
tokens; length: sqrt(|k|^2 + 1e-6); `negative` doubles b (eigenvalues down to -1). One norm weight
[K], eps 1e-5. Mask: the convolutions see zeros and b = 0 at padding.
State: S [B, heads, K, K] and the last kernel - 1 inputs of the convolutions. Cost: 4 D^2 +
(heads + 3 kernel) D + K parameters; FLOPs twice the matrices and filters per token + `delta_flops`.
Paper: Yang et al. 2024, arXiv:2406.06484, eq. 3 and section 3.4 (L2 as in the authors' code).
"""

import torch
from torch import Tensor, nn

from grammar.domain import Flag, Int
from ops.kernels.delta import DELTA, chunked_delta, delta_flops, delta_step
from ops.kernels.mixing import (
    HEAD_OUTPUT,
    SHORT,
    ShortConv,
    blank,
    head_output,
    heads_first,
    unit_heads,
)
from ops.spec import Cost, Op, TensorType, need, need_divides


class DeltaNet(nn.Module):
    def __init__(self, dim: int, heads: int, kernel: int = 4, negative: bool = False) -> None:
        super().__init__()
        self.heads, self.key, self.top = heads, dim // heads, 2.0 if negative else 1.0
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.beta = nn.Linear(dim, heads, bias=False)
        self.conv = ShortConv(3 * dim, kernel)
        self.norm = nn.Parameter(torch.ones(self.key))
        self.out = nn.Linear(dim, dim, bias=False)

    def parts(self, x: Tensor, seen: Tensor) -> tuple[Tensor, ...]:
        """q (scaled), k, v [B, heads, T, K] and b [B, heads, T] of the convolved projections."""
        q, k, v = (heads_first(z, self.heads) for z in seen.chunk(3, -1))
        q, k = (unit_heads(z, 1e-6 / self.key, self.key**-0.5) for z in (q, k))
        return q * self.key**-0.5, k, v, self.beta(x).sigmoid().mT * self.top

    def merge(self, o: Tensor) -> Tensor:
        y: Tensor = self.out(head_output(o, None, self.norm, 1e-5))
        return y

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v, beta = self.parts(x, self.conv(blank(self.qkv(x), mask)))
        if mask is not None:
            beta = beta * mask[:, None]
        return self.merge(chunked_delta(q, k, v, beta, beta.new_zeros(1))[0])

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(self.norm.dtype, torch.float32)
        state = self.norm.new_zeros(batch, self.heads, self.key, self.key, dtype=wide)
        return state, self.conv.tail(batch)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        seen, tail = self.conv.step(self.qkv(x), state[1])
        q, k, v, beta = (z[:, :, 0] for z in self.parts(x, seen))
        o, after = delta_step(q, k, v, beta, beta.new_zeros(1), state[0])
        return self.merge(o[:, :, None]), (after, tail)


def _shape(x: TensorType, heads: int, kernel: int, negative: bool) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    return x


def _cost(x: TensorType, heads: int, kernel: int, negative: bool) -> Cost:
    t, d, key = x.length, x.dim, x.dim // heads
    weights = 4 * d * d + heads * d + 3 * kernel * d
    flops = 2 * t * weights + delta_flops(t, heads, key, key)
    return Cost(weights + key, flops, 80 * t * d, 4 * d * key + 12 * (kernel - 1) * d)


OP = Op(
    name="delta_net",
    module=DeltaNet,
    params={
        "heads": Int(1, 64, default=4),
        "kernel": Int(1, 16, default=4),
        "negative": Flag(),
    },
    shape=_shape,
    cost=_cost,
    causal=True,
    mask="use",
    state=True,
    uses=(heads_first, *HEAD_OUTPUT, blank, *SHORT, ShortConv, *DELTA),
    paper="arXiv:2406.06484",
)
