"""RWKV-6: a matrix state whose every key channel is forgotten at a rate the token chooses.

    z' = x + (x_{t-1} - x) (mu_z + tanh(m W_1z) W_2z),  m = x + (x_{t-1} - x) mu,  z = r k v g w
    r, k, v = r' W_r, k' W_k, v' W_v,   log w_t = -exp(w_0 + tanh(w' W_1) W_2)
    S_t = diag(w_t) S_{t-1} + k_t v_t^T,   o_t = (S_{t-1} + diag(u) k_t v_t^T)^T r_t
    y = (group_norm(o) * silu(g' W_g)) W_o, a group a head

Causal. Shapes: x [B, T, D] -> [B, T, D]; V = D / heads, K = expand_k V; u [heads, K]; `rank` of the
shifts, `decay_rank` of the decay; no scale; norm eps 6.4e-4. Mask: padding is zero in the shift,
w = 1 and k = 0 there. State: S [B, heads, K, V] and the last x.
Cost with P = expand_k D, R = rank, Q = decay_rank: 3 D^2 + 2 D P + 10 D R + Q (D + P) + 8 D + 2 P
parameters; FLOPs twice the matrices a token and `diagonal_flops`.
Paper: Peng et al. 2024, "Eagle and Finch", arXiv:2404.05892, eq. 11-20. mu, w_0 and u start as in
the first layer of the published model, the matrices as torch's linear layers do.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Float, Int
from ops.kernels.diagonal import DIAGONAL, chunked_diagonal, diagonal_flops, diagonal_step
from ops.kernels.mixing import blank, heads_first, heads_last, shifted
from ops.linear.common import LowRank, head_width
from ops.spec import Cost, Op, TensorType, need, need_divides


class RWKV6(nn.Module):
    def __init__(self, dim: int, heads: int, key: int, rank: int, decay_rank: int) -> None:
        super().__init__()
        self.heads, self.eps = heads, 6.4e-4
        place = torch.arange(dim) / dim
        powers = torch.tensor([1.0, 0.5, 1.0, 1.0, 0.5, 1.0])[:, None]  # of m, r, k, v, g, w
        self.mix = nn.Parameter(1 - place**powers)
        self.low = nn.Linear(dim, 5 * rank, bias=False)
        nn.init.zeros_(self.low.weight)
        self.high = nn.Parameter(torch.empty(5, rank, dim).uniform_(-0.01, 0.01))
        self.receptance = nn.Linear(dim, heads * key, bias=False)
        self.key = nn.Linear(dim, heads * key, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.gate = nn.Linear(dim, dim, bias=False)
        channel = torch.arange(heads * key)
        along = channel / max(1, heads * key - 1)
        self.decay = LowRank(dim, heads * key, decay_rank, "tanh", 5 * along**0.7 - 6)
        nn.init.uniform_(self.decay.up.weight, -0.01, 0.01)
        self.bonus = nn.Parameter((((channel + 1) % 3 - 1) * 0.1).view(heads, key))
        self.scale = nn.Parameter(torch.ones(dim))
        self.shift = nn.Parameter(torch.zeros(dim))
        self.out = nn.Linear(dim, dim, bias=False)

    def mixed(self, x: Tensor, past: Tensor) -> tuple[Tensor, ...]:
        """What r, k, v, g and w are made of: five [B, T, D]."""
        gap = past - x
        low = torch.unflatten(self.low(x + gap * self.mix[0]).tanh(), -1, (5, -1))
        high = torch.einsum("btzr,zrd->zbtd", low, self.high)
        return (x + gap * (self.mix[1:, None, None] + high)).unbind(0)

    def parts(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """r, k, v, log w [B, heads, T, .], the last in fp32, and the gate [B, T, D]."""
        r, k, v, g, w = self.mixed(x, past)
        raw = self.decay(w)
        rate = -raw.to(torch.promote_types(raw.dtype, torch.float32)).exp()
        found = (self.receptance(r), self.key(k), self.value(v), rate)
        r, k, v, rate = (heads_first(z, self.heads) for z in found)
        return r, k, v, rate, F.silu(self.gate(g))

    def merge(self, o: Tensor, gate: Tensor) -> Tensor:
        o = heads_last(F.layer_norm(o, o.shape[-1:], eps=self.eps))
        y: Tensor = self.out((o * self.scale + self.shift) * gate)
        return y

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = blank(x, mask)
        r, k, v, rate, gate = self.parts(x, shifted(x))
        if mask is not None:
            k, rate = k * mask[:, None, :, None], rate * mask[:, None, :, None]
        return self.merge(chunked_diagonal(r, k, v, rate, bonus=self.bonus)[0], gate)

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        heads, key = self.bonus.shape
        wide = torch.promote_types(self.scale.dtype, torch.float32)
        dim = self.scale.shape[0]
        state = self.scale.new_zeros(batch, heads, key, dim // heads, dtype=wide)
        return state, self.scale.new_zeros(batch, 1, dim)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        *heads, gate = self.parts(x, state[1])
        r, k, v, rate = (z[:, :, 0] for z in heads)
        o, after = diagonal_step(r, k, v, rate, state[0], self.bonus)
        return self.merge(o[:, :, None], gate), (after, x)


def _shape(x: TensorType, heads: int, expand_k: float, **_: Any) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    head_width(x, heads, expand_k, "expand_k")
    return x


def _init(x: TensorType, heads: int, expand_k: float, **ranks: int) -> dict[str, Any]:
    return {
        "dim": x.dim,
        "heads": heads,
        "key": head_width(x, heads, expand_k, "expand_k"),
        **ranks,
    }


def _cost(x: TensorType, heads: int, expand_k: float, rank: int, decay_rank: int) -> Cost:
    t, d, key = x.length, x.dim, head_width(x, heads, expand_k, "expand_k")
    p = heads * key
    weights = 3 * d * d + 2 * d * p + 10 * d * rank + decay_rank * (d + p)
    flops = 2 * t * weights + diagonal_flops(t, heads, key, d // heads)
    kept = 4 * t * (24 * d + 22 * p + 5 * rank + decay_rank)
    return Cost(weights + 8 * d + 2 * p, flops, kept, 4 * (p * (d // heads) + d))


OP = Op(
    name="rwkv6",
    module=RWKV6,
    params={
        "heads": Int(1, 64, default=4),
        "expand_k": Float(0.125, 8.0, default=0.5),
        "rank": Int(1, 1024, log=True, default=32),
        "decay_rank": Int(1, 1024, log=True, default=64),
    },
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=True,
    mask="use",
    state=True,
    uses=(heads_first, heads_last, blank, shifted, LowRank, *DIAGONAL),
    paper="arXiv:2404.05892",
)
