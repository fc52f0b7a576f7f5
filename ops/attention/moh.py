"""Mixture-of-head attention: each token weighs its heads, some always, some by routing.

    p = softmax(x W_r) over the H - S routed heads,  C = the `active` largest
    y = W_o concat_h g_h O_h
    norm=code:   g_h = a_2 active p_h / sum_C p (h in C, else 0);  shared: a_1 S softmax(x W_s)_h
                 [a_1, a_2] = 2 softmax(x W_b)
    norm=paper:  the same without active / sum_C p, without S and without 2
    norm=binary: g_h = 1[h in C], with p's gradient (straight-through); shared: 1
    aux = balance (H - S) sum_h P_h f_h,  P = mean p, f = mean 1[h in C]   (uniform: balance active)

S = `shared` (the first heads; S = 1 has no W_s, S = 0 and active = 0 no W_b). Causal with the flag
`causal`. Shapes: x [B, T, D] -> [B, T, D], K = D / heads; all heads are computed. Gates in fp32.
Mask: keys at padding are left out, and padding does not count in aux. State: keys and values of all
tokens so far, and the position. Cost: 4 D^2 parameters and D for each output of the routers; 8 T
D^2 + 4 T^2 D FLOPs + 2 T D a output. Paper: Jin et al. 2024, "MoH", arXiv:2410.11842, eq. 4-8;
norm=code as in the released ViT code. The parameter-free router of the LLaMA conversion is not
here.
"""

import torch
from torch import Tensor, nn

from grammar.domain import Float, Int, Word
from ops.attention.engine import (
    ENGINE,
    ScoreAttention,
    attention_cost,
    attention_shape,
    head_params,
)
from ops.spec import Cost, Mismatch, Op, TensorType


class MixtureOfHeads(ScoreAttention):
    def __init__(
        self,
        dim: int,
        heads: int,
        causal: bool = False,
        pos: str = "none",
        shared: int = 1,
        active: int = 1,
        norm: str = "code",
        balance: float = 0.01,
    ) -> None:
        super().__init__(dim, heads, causal, pos)
        self.shared, self.routed, self.active = shared, heads - shared, active
        self.norm, self.balance, scaled = norm, balance, norm != "binary"
        self.route = nn.Linear(dim, self.routed, bias=False) if active else None
        self.share = nn.Linear(dim, shared, bias=False) if shared > 1 and scaled else None
        both = scaled and shared > 0 and active > 0
        self.stage = nn.Linear(dim, 2, bias=False) if both else None

    def gates(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """g [B, T, heads] and aux."""
        wide = torch.promote_types(x.dtype, torch.float32)
        code, aux = self.norm == "code", x.new_zeros((), dtype=wide)
        first = x.new_ones(*x.shape[:2], self.shared, dtype=wide)
        if self.share is not None:
            first = self.share(x).to(wide).softmax(-1) * (self.shared if code else 1)
        rest = x.new_zeros(*x.shape[:2], self.routed, dtype=wide)
        if self.route is not None:
            p = self.route(x).to(wide).softmax(-1)
            chosen = torch.zeros_like(p).scatter(-1, p.topk(self.active, dim=-1).indices, 1.0)
            kept = p * chosen
            if self.norm == "binary":
                rest = chosen + p - p.detach()
            else:
                rest = kept / kept.sum(-1, keepdim=True) * self.active if code else kept
            token = torch.ones_like(p[..., :1]) if mask is None else mask[..., None].to(wide)
            count = token.sum((0, 1)).clamp_min(1)
            mean, share = (p * token).sum((0, 1)) / count, (chosen * token).sum((0, 1)) / count
            aux = self.balance * self.routed * (mean * share).sum()
        if self.stage is not None:
            stage = self.stage(x).to(wide).softmax(-1) * (2 if code else 1)
            first, rest = first * stage[..., :1], rest * stage[..., 1:]
        return torch.cat([first, rest], dim=-1), aux

    def gated(self, y: Tensor, g: Tensor) -> Tensor:
        return self.merge(y * g.mT[..., None].to(y.dtype))

    def forward(  # type: ignore[override]  # y and aux
        self, x: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        g, aux = self.gates(x, mask)
        return self.gated(self.mix(x, mask), g), aux

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        y, state = self.recall(x, state)
        return self.gated(y, self.gates(x)[0]), state


def _shape(
    x: TensorType, heads: int, pos: str, shared: int, active: int, **_: object
) -> TensorType:
    attention_shape(x, heads, pos)
    if shared > heads or active > heads - shared:
        raise Mismatch(
            f"shared={shared} and active={active} are more than heads={heads}", param="active"
        )
    if shared + active == 0:
        raise Mismatch("no head is ever active", param="active")
    return x


def _cost(
    x: TensorType,
    heads: int,
    causal: bool,
    shared: int,
    active: int,
    norm: str,
    **_: object,
) -> Cost:
    scaled = norm != "binary"
    outputs = (heads - shared) * (active > 0) + scaled * shared * (shared > 1)
    outputs += 2 * (scaled and shared > 0 and active > 0)
    params, flops = outputs * x.dim, 2 * x.length * x.dim * outputs
    return attention_cost(x, heads, causal, params=params, flops=flops)


OP = Op(
    name="moh_attn",
    module=MixtureOfHeads,
    params={
        **head_params(),
        "shared": Int(0, 64, default=1),
        "active": Int(0, 64, default=1),
        "norm": Word(("code", "paper", "binary"), default="code"),
        "balance": Float(0.0, 10.0, default=0.01),
    },
    shape=_shape,
    cost=_cost,
    causal=lambda x, causal, **_: causal,
    returns=("y", "aux"),
    mask="use",
    state=True,
    uses=ENGINE,
    paper="arXiv:2410.11842",
)
