"""Non-approximate attention: a key's weight comes from its own query, so rows are prefix softmaxes.

    q = silu(x W_q),   e_s = q_s . k_s / sqrt(K)
    y_t = W_o concat_h sum_{s<=t} e^{e_s} v_s / sum_{s<=t} e^{e_s}

Causal with the flag `causal`; else every token gets the pool of the whole sequence. Shapes: x [B,
T, D] -> [B, T, D], K = D / heads. Scores in fp32 with a running maximum (they pass 1e3 in deep
models). Mask: padding takes no part. State: (m, u, w) of the prefix, [B, heads], [B, heads], [B,
heads, K]. Cost: 4 D^2 parameters; 8 T D^2 + 2 T' C D FLOPs with chunks of C = min(64, T), T' = T
rounded up to C (not causal: 6 T D^2 + 2 D^2 + 2 T D). Paper: "Deconstructing Attention",
arXiv:2510.11602, variant "non-approximate".
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Int
from ops.attention.engine import masked_softmax, split_heads
from ops.kernels.scan import PREFIX_SOFTMAX, prefix_softmax, softmax_union
from ops.spec import Cost, Op, TensorType, need, need_divides


class NonApproximateAttention(nn.Module):
    def __init__(self, dim: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B, heads, T] in fp32 and values [B, heads, T, K]."""
        q = split_heads(F.silu(self.q(x)), self.heads)
        k, v = (split_heads(z, self.heads) for z in self.kv(x).chunk(2, -1))
        wide = torch.promote_types(x.dtype, torch.float32)
        return (q.to(wide) * k.to(wide)).sum(-1) * q.shape[-1] ** -0.5, v

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        e, v = self.project(x)
        if self.causal:
            e = e if mask is None else e.masked_fill(~mask[:, None], float("-inf"))
            o = prefix_softmax(e, v)
        else:
            seen = None if mask is None else mask[:, None, None]
            o = masked_softmax(e[:, :, None], seen).to(v.dtype) @ v
        y: Tensor = self.out(o.transpose(1, 2).flatten(2)).expand(-1, x.shape[1], -1)
        return y

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        weight = self.out.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        zeros = weight.new_zeros(batch, self.heads, weight.shape[0] // self.heads, dtype=wide)
        return zeros[..., 0] + torch.finfo(wide).min, zeros[..., 0].clone(), zeros

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        e, v = self.project(x)
        token = (e[:, :, 0], torch.ones_like(e[:, :, 0]), v[:, :, 0].to(e.dtype))
        state = softmax_union(state, token)
        y = (state[2] / state[1][..., None]).to(x.dtype)
        return self.out(y.flatten(1)[:, None]), state


def _shape(x: TensorType, heads: int, causal: bool) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    return x


def _cost(x: TensorType, heads: int, causal: bool) -> Cost:
    t, d = x.length, x.dim
    size = min(64, t)
    padded = -(-t // size) * size
    flops = 8 * t * d * d + 2 * padded * size * d
    if not causal:  # the pool is projected once
        flops = 6 * t * d * d + 2 * d * d + 2 * t * d
    return Cost(4 * d * d, flops, 16 * t * d, causal * 4 * (d + 2 * heads))


OP = Op(
    name="nonapprox_attn",
    module=NonApproximateAttention,
    params={"heads": Int(1, 64), "causal": Flag()},
    shape=_shape,
    cost=_cost,
    causal=lambda x, causal, **_: causal,
    mask="use",
    state=True,
    uses=(split_heads, masked_softmax, *PREFIX_SOFTMAX),
    paper="arXiv:2510.11602",
)
