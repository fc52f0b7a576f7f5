"""RWKV-7: decay by key channel, and what the state holds for a key is replaced, channels in part.

    z' = x + (x_{t-1} - x) mu_z,  z = r k v g w a;   r, k, v = r' W_r, k' W_k, v' W_v
    log w = -e^{-1/2} sigmoid(w_0 + tanh(w' W_1) W_2),   a = sigmoid(a_0 + a' A_1 A_2)
    kappa = k * xi to length 1,   k~ = k * (1 + (a - 1) alpha),   g = sigmoid(g' G_1) G_2
    v~ = v + (v_first - v) sigmoid(v_0 + v' N_1 N_2)                        (v without `first`)
    S_t = diag(w_t) S_{t-1} - (kappa_t * a_t) (kappa_t^T S_{t-1}) + k~_t v~_t^T,   o_t = S_t^T r_t
    y = ((group_norm(o) + (sum_head rho * r * k~) v~) * g) W_o, a group a head

Exports v. `first` is the v of the first such layer: `rwkv7 as lead`, later `rwkv7(first=@lead.v)`.
Causal. Shapes: x [B, T, D] -> y, v [B, T, D]; K = V = head_dim; no scale; norm eps head_dim 1e-5.
The inner ranks are `rank`, or the published ones of a width: 1.8 sqrt D (w, a), 1.3 sqrt D (v) and
.6 D^.8 (g), to a multiple of 32. Mask: padding is zero in the shift, w = 1, kappa = k~ = 0 there.
State: S [B, D / K, K, K] and the last x.
Cost, R = sum of the ranks: 4 D^2 + 2 D R + 13 D (+ D with `first`) parameters; FLOPs twice the
matrices a token and `dplr_flops`.
Paper: Peng et al. 2025, "Goose", arXiv:2503.14456, section 4. mu, w_0, xi and alpha start as in the
first layer of the published model, the square matrices as torch's linear layers do.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Int
from ops.kernels.dplr import DPLR, chunked_dplr, dplr_flops, dplr_step
from ops.kernels.mixing import blank, heads_first, heads_last, shifted
from ops.linear.common import LowRank
from ops.spec import Cost, Input, Mismatch, Op, TensorType, need, need_divides


class RWKV7(nn.Module):
    def __init__(self, dim: int, head_dim: int, ranks: tuple[int, int, int, int | None]) -> None:
        super().__init__()
        self.heads, self.eps = dim // head_dim, head_dim * 1e-5
        place = torch.arange(dim) / dim
        powers = torch.tensor([0.2, 0.9, 0.4, 0.2, 0.9, 0.9])[:, None]  # of r, k, v, g, w, a
        self.mix = nn.Parameter(1 - place**powers)
        self.receptance = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        along = torch.arange(dim) / max(1, dim - 1)
        self.decay = LowRank(dim, dim, ranks[0], "tanh", 5 * along**0.85 - 6.5)
        self.rate = LowRank(dim, dim, ranks[1], "none", torch.zeros(dim))
        self.gate = LowRank(dim, dim, ranks[2], "sig")
        self.blend = (
            None if ranks[3] is None else LowRank(dim, dim, ranks[3], "none", torch.ones(dim))
        )
        self.removed = nn.Parameter(torch.full((dim,), 0.85))
        self.kept = nn.Parameter(torch.ones(dim))
        self.bonus = nn.Parameter(torch.zeros(dim))
        self.scale = nn.Parameter(torch.ones(dim))
        self.shift = nn.Parameter(torch.zeros(dim))
        self.out = nn.Linear(dim, dim, bias=False)

    def parts(self, x: Tensor, past: Tensor, first: Tensor | None) -> tuple[Tensor, ...]:
        """r, k~, v~, -kappa, a kappa, log w [B, heads, T, K], the gate and v [B, T, D]."""
        gap = past - x
        r, k, v, g, w, a = (x + gap * mu for mu in self.mix.unbind(0))
        r, k, own = self.receptance(r), self.key(k), self.value(v)
        mixed = own
        if self.blend is not None and first is not None:
            mixed = own + (first - own) * self.blend(v).sigmoid()
        raw, rate = self.decay(w), self.rate(a).sigmoid()
        decay = -math.exp(-0.5) * raw.to(torch.promote_types(raw.dtype, torch.float32)).sigmoid()
        kappa = F.normalize(heads_first(k * self.removed, self.heads), dim=-1)
        found = (r, k * (1 + (rate - 1) * self.kept), mixed, decay, rate)
        r, k, mixed, decay, rate = (heads_first(z, self.heads) for z in found)
        return r, k, mixed, -kappa, kappa * rate, decay, self.gate(g), own

    def merge(self, o: Tensor, r: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
        rho = heads_first(self.bonus[None, None], self.heads)
        bonus = heads_last((rho * r * k).sum(-1, keepdim=True) * v)
        o = heads_last(F.layer_norm(o, o.shape[-1:], eps=self.eps)) * self.scale + self.shift
        y: Tensor = self.out((o + bonus) * gate)
        return y

    def forward(
        self, x: Tensor, first: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x = blank(x, mask)
        r, k, v, a, b, g, gate, own = self.parts(x, shifted(x), first)
        if mask is not None:
            real = mask[:, None, :, None]
            k, b, g = k * real, b * real, g * real
        return self.merge(chunked_dplr(r, k, v, a, b, g)[0], r, k, v, gate), own

    def alone(self, x: Tensor, first: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return self.forward(x, first, mask)[0]

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(self.scale.dtype, torch.float32)
        dim = self.scale.shape[0]
        width = dim // self.heads
        state = self.scale.new_zeros(batch, self.heads, width, width, dtype=wide)
        return state, self.scale.new_zeros(batch, 1, dim)

    def step_all(
        self, x: Tensor, state: tuple[Tensor, Tensor], first: Tensor | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        *heads, gate, own = self.parts(x, state[1], first)
        r, k, v, a, b, g = heads
        now = [z[:, :, 0] for z in (r, k, v, a, b, g)]
        o, after = dplr_step(now[0], now[1], now[2], now[3], now[4], now[5], state[0])
        return self.merge(o[:, :, None], r, k, v, gate), own, (after, x)

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor], first: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, _, after = self.step_all(x, state, first)
        return y, after


def _ranks(dim: int, rank: int | None, given: tuple[str, ...]) -> tuple[int, int, int, int | None]:
    """Of w, a, g and v (None without `first`)."""
    sizes = (1.8 * dim**0.5, 1.8 * dim**0.5, 0.6 * dim**0.8, 1.3 * dim**0.5)
    w, a, g, v = (rank or max(32, 32 * round(s / 32)) for s in sizes)
    return w, a, g, v if "first" in given else None


def _shape(
    x: TensorType, first: TensorType | None, head_dim: int, **_: Any
) -> tuple[TensorType, TensorType]:
    need(x, "seq")
    need_divides(head_dim, x.dim, param="head_dim")
    if first is not None and (first.kind, first.shape) != ("seq", x.shape):
        raise Mismatch(f"first is {first}, not {x}", param="first")
    return x, x


def _init(x: TensorType, head_dim: int, rank: int | None, given: tuple[str, ...]) -> dict[str, Any]:
    return {"dim": x.dim, "head_dim": head_dim, "ranks": _ranks(x.dim, rank, given)}


def _cost(
    x: TensorType,
    first: TensorType | None,
    head_dim: int,
    rank: int | None,
    given: tuple[str, ...],
) -> Cost:
    t, d = x.length, x.dim
    low = sum(r or 0 for r in _ranks(d, rank, given))
    weights = 4 * d * d + 2 * d * low
    flops = 2 * t * weights + dplr_flops(t, d // head_dim, head_dim, head_dim)
    kept = 4 * t * (90 * d + 2 * low)
    return Cost(weights + (13 + bool(given)) * d, flops, kept, 4 * (d * head_dim + d))


OP = Op(
    name="rwkv7",
    module=RWKV7,
    params={
        "head_dim": Int(1, 1024, log=True, default=64),
        "rank": Int(1, 1024, log=True, default=None, none=True),
    },
    inputs=(Input("first", "stream", optional=True),),
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=True,
    returns=("y", "v"),
    mask="use",
    state=True,
    needs=("given",),
    uses=(heads_first, heads_last, blank, shifted, LowRank, *DPLR),
    paper="arXiv:2503.14456",
)
