"""TransNormerLLM attention: decayed linear attention, learned cosine positions, a norm, a gate.

    q = silu(x W_q), k = silu(x W_k), v = x W_v, u = x W_u
    S_t = e^{-s_h} S_{t-1} + lrpe(k_t) v_t^T,   o_t = S_t^T lrpe(q_t),   y = (SRMS_D(o) * u) W_o
    lrpe(z_t) = [z cos(t theta_h); z sin(t theta_h)]: q_t . k_s -> sum_c q_c k_c cos((t-s) theta_hc)

Causal. Shapes: x [B, T, D] -> [B, T, D], K = D / heads; no 1/sqrt(K), no denominator, no bias; the
norm is over the merged D, eps 1e-6. `lrpe`: in the first such layer, in all or in none; theta_hc =
10000^(-2 i / D), i = h K + c, is learned. `act` is that of q and k; `gate=false` drops u.
Fixed slopes, for head h = 1..H of layer l = 0..L-1, L = `depth` (without: no factor of the layer):
    alibi    2^(-8h/H) (1 - l/(L-1) + 1e-5)       the released models
    linear   (8h/H) (1 - l/L)                     the paper's eq. 10
    none     0
Mask: v = 0 at padding. State: S [B, heads, K or 2 K, K] after token t, and the position.
Cost: 5 D^2 parameters (4 D^2 without gate) and D for lrpe; twice the matrices' weights a token and
`chunked_flops`.
Paper: Qin et al. 2023, arXiv:2307.14995, eq. 7-16 (decay and lrpe as in the released code).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Int, Word
from ops.kernels.chunked import CHUNKED, chunked_decay, chunked_flops, decay_step
from ops.kernels.mixing import HEAD_OUTPUT, head_output, heads_first
from ops.kernels.positions import alibi_slopes
from ops.kernels.relative import lrpe
from ops.spec import Cost, Op, TensorType, need, need_divides


class TransNormerAttention(nn.Module):
    slopes: Tensor

    def __init__(
        self,
        dim: int,
        heads: int,
        cosine: bool = True,
        decay: str = "alibi",
        fade: float = 1.0,
        act: str = "silu",
        gate: bool = True,
    ) -> None:
        super().__init__()
        self.heads, self.act, self.gate, self.eps = heads, act, gate, 1e-6
        self.mix = nn.Linear(dim, (4 if gate else 3) * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        angles = torch.exp(torch.arange(dim) * (-2 * math.log(10000.0) / dim)).view(heads, -1)
        self.theta = nn.Parameter(angles) if cosine else None
        if decay == "alibi":
            slopes = alibi_slopes(heads)
        else:
            slopes = torch.arange(1, heads + 1) * (8 / heads if decay == "linear" else 0.0)
        self.register_buffer("slopes", slopes * fade, persistent=False)

    def project(self, x: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """q and k [B, heads, T, K or 2 K], v [B, heads, T, K] and the gate u [B, T, D]."""
        q, k, v, *u = self.mix(x).chunk(4 if self.gate else 3, dim=-1)
        if self.act == "silu":
            q, k = F.silu(q), F.silu(k)
        elif self.act == "elu":
            q, k = F.elu(q) + 1, F.elu(k) + 1
        q, k, v = (heads_first(z, self.heads) for z in (q, k, v))
        if self.theta is not None:
            q, k = lrpe(q, place, self.theta), lrpe(k, place, self.theta)
        return q, k, v, u[0] if u else None

    def merge(self, o: Tensor, u: Tensor | None) -> Tensor:
        y: Tensor = self.out(head_output(o, u, None, self.eps, act="none", whole=True))
        return y

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v, u = self.project(x, torch.arange(x.shape[1], device=x.device))
        if mask is not None:
            v = v * mask[:, None, :, None]
        return self.merge(chunked_decay(q, k, v, -self.slopes[:, None])[0], u)

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        weight, width = self.out.weight, self.out.in_features // self.heads
        wide = torch.promote_types(weight.dtype, torch.float32)
        key = width if self.theta is None else 2 * width
        state = weight.new_zeros(batch, self.heads, key, width, dtype=wide)
        return state, weight.new_zeros(1, dtype=torch.long)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q, k, v, u = self.project(x, state[1])
        o, after = decay_step(q[:, :, 0], k[:, :, 0], v[:, :, 0], -self.slopes, state[0])
        return self.merge(o[:, :, None], u), (after, state[1] + 1)


def _fade(decay: str, layer: int, depth: int | None) -> float:
    """What layer `layer` of `depth` multiplies its slopes by."""
    if depth is None:
        return 1.0
    place = min(layer, depth - 1)
    return 1 - place / max(1, depth - 1) + 1e-5 if decay == "alibi" else 1 - place / depth


def _shape(x: TensorType, heads: int, **_: Any) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    return x


def _init(x: TensorType, heads: int, layer: int, **params: Any) -> dict[str, Any]:
    return {
        "dim": x.dim,
        "heads": heads,
        "cosine": params["lrpe"] == "all" or (params["lrpe"] == "first" and layer == 0),
        "decay": params["decay"],
        "fade": _fade(params["decay"], layer, params["depth"]),
        "act": params["act"],
        "gate": params["gate"],
    }


def _cost(x: TensorType, heads: int, **params: Any) -> Cost:
    t, d, width = x.length, x.dim, x.dim // heads
    made = _init(x, heads, **params)
    key, weights = width * (1 + made["cosine"]), (4 + made["gate"]) * d * d
    flops = 2 * t * weights + chunked_flops(t, heads, key, width)
    kept = 4 * t * d * (8 + 4 * made["cosine"])
    return Cost(weights + d * made["cosine"], flops, kept, 4 * heads * key * width + 8)


OP = Op(
    name="transnormer_attn",
    module=TransNormerAttention,
    params={
        "heads": Int(1, 64, default=8),
        "lrpe": Word(("first", "all", "none"), default="first"),
        "decay": Word(("alibi", "linear", "none"), default="alibi"),
        "depth": Int(1, 256, default=None, none=True),
        "act": Word(("silu", "elu", "none"), default="silu"),
        "gate": Flag(default=True),
    },
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=True,
    mask="use",
    state=True,
    needs=("layer",),
    uses=(heads_first, *HEAD_OUTPUT, alibi_slopes, lrpe, *CHUNKED),
    paper="arXiv:2307.14995",
)
