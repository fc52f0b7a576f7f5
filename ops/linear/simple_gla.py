"""Simple gated linear attention: every head forgets at one rate, chosen by the token.

    q, k, v = silu(conv(x W_q)), silu(conv(x W_k)), silu(conv(x W_v))
    g_t = logsigmoid(x_t W_d + b) / 16,   S_t = e^{g_t} S_{t-1} + k_t v_t^T
    o_t = S_t^T q_t / sqrt(K),   y = (w * RMS_V(o) * silu(x W_g)) W_o

The convolutions are causal, depthwise, without bias; `kernel=none` leaves them and their silu out.
Causal. Shapes: x [B, T, D] -> [B, T, D]; K = V = D / heads, norm over each head with one weight
[V]. Mask: x = 0 into the convolutions, k = 0 and g = 0 at padding.
State: S [B, heads, K, V] and the last kernel - 1 inputs of the convolutions, [B, kernel - 1, 3 D].
Cost: 5 D^2 + heads (D + 1) + 3 kernel D + V parameters; FLOPs twice the weights of matrices and
convolutions a token and `chunked_flops`.
Paper: Yang et al. 2023, arXiv:2312.06635, section 4 with a scalar gate; convolution, bias of the
gate and eps 1e-5 as in the layer of the authors' library.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Int
from ops.kernels.chunked import CHUNKED, chunked_decay, chunked_flops, decay_step
from ops.kernels.mixing import MIXING, ShortConv, blank, head_output, heads_first
from ops.spec import Cost, Op, TensorType, need, need_divides


class SimpleGatedAttention(nn.Module):
    def __init__(self, dim: int, heads: int, kernel: int | None = 4) -> None:
        super().__init__()
        self.heads, self.width, self.eps = heads, dim // heads, 1e-5
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.conv = None if kernel is None else ShortConv(3 * dim, kernel)
        self.decay = nn.Linear(dim, heads)
        self.gate = nn.Linear(dim, dim, bias=False)
        self.norm = nn.Parameter(torch.ones(self.width))
        self.out = nn.Linear(dim, dim, bias=False)

    def heads_of(self, qkv: Tensor) -> list[Tensor]:
        """q (scaled), k, v [B, heads, T, K]."""
        q, k, v = (heads_first(z, self.heads) for z in qkv.chunk(3, -1))
        return [q * self.width**-0.5, k, v]

    def forget(self, x: Tensor) -> Tensor:
        """g [B, heads, T], fp32 at least."""
        decay = self.decay(x)
        wide = torch.promote_types(decay.dtype, torch.float32)
        return F.logsigmoid(decay.to(wide)).mT / 16

    def merge(self, o: Tensor, x: Tensor) -> Tensor:
        y: Tensor = self.out(head_output(o, self.gate(x), self.norm, self.eps))
        return y

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        qkv, g = blank(self.qkv(x), mask), self.forget(x)
        q, k, v = self.heads_of(qkv if self.conv is None else self.conv(qkv))
        if mask is not None:
            k, g = k * mask[:, None, :, None], g * mask[:, None]
        return self.merge(chunked_decay(q, k, v, g)[0], x)

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        weight = self.out.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        state = weight.new_zeros(batch, self.heads, self.width, self.width, dtype=wide)
        none = weight.new_zeros(batch, 0, 3 * weight.shape[0])
        return state, none if self.conv is None else self.conv.tail(batch)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        qkv, tail = self.qkv(x), state[1]
        if self.conv is not None:
            qkv, tail = self.conv.step(qkv, tail)
        q, k, v = (z[:, :, 0] for z in self.heads_of(qkv))
        o, after = decay_step(q, k, v, self.forget(x)[..., 0], state[0])
        return self.merge(o[:, :, None], x), (after, tail)


def _shape(x: TensorType, heads: int, kernel: int | None) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    return x


def _cost(x: TensorType, heads: int, kernel: int | None) -> Cost:
    t, d, width = x.length, x.dim, x.dim // heads
    weights = 5 * d * d + heads * d + 3 * (kernel or 0) * d
    flops = 2 * t * weights + chunked_flops(t, heads, width, width)
    kept = 4 * t * (20 if kernel else 14) * d
    tail = 12 * max(0, (kernel or 1) - 1) * d
    return Cost(weights + heads + width, flops, kept, 4 * d * width + tail)


def _init(x: TensorType, heads: int, kernel: int | None) -> dict[str, Any]:
    return {"dim": x.dim, "heads": heads, "kernel": kernel}


OP = Op(
    name="simple_gla",
    module=SimpleGatedAttention,
    params={"heads": Int(1, 64, default=4), "kernel": Int(1, 64, default=4, none=True)},
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=True,
    mask="use",
    state=True,
    uses=(*MIXING, *CHUNKED),
    paper="arXiv:2312.06635",
)
