"""Mixture of experts: every token is sent to the `active` gated MLPs that its router likes best.

    l = W_r x,  p = softmax(l),  S = the `active` largest of p + b
    y = sum_{e in S} w_e FFN_e(x) + sum_shared FFN_s(x),   w = p_S / sum p_S   (norm) or p_S
    FFN_e(x) = (silu(x W_gate) * (x W_up)) W_down

Losses, added to the graph's `aux`: balance E sum_e f_e P_e with f the share of (token, slot) pairs
of expert e (no gradient) and P the mean of p: 1 when even, about E when one expert takes all;
z = mean (logsumexp l)^2. Both over real tokens.
`rate`: the bias b moves by rate * sign(mean load - load) after each step (`update`); it takes part
in the choice only, so the weights w stay those of p.
Noise (training only): `gauss` adds N(0, 1) softplus(W_n x) to l, `jitter` multiplies the router's
input by U(0.99, 1.01). `capacity`: an expert takes at most ceil(capacity T active / E) of the
batch's T tokens, in their order; what is beyond gives 0. Without it no token is dropped.
Shapes: seq [B, T, D] and vec [B, D], kept; hidden = mult * D rounded up to a multiple of 8. The
router works in fp32. Each token on its own, causal; with `capacity` not causal: tokens compete.
Ties of p are broken as torch's topk does, which is not the same on every device.
Tokens are laid out in blocks of one expert each, a number of blocks that holds any choice, so that
no shape depends on the data; a block is a quarter of an even load.
Cost, F hidden: E D (twice with gauss) + (E + shared) 3 D F parameters; per token 2 D E (twice with
gauss) + (active + shared) 6 D F FLOPs (`capacity`: at most; what fills up blocks is not counted).
Papers: Shazeer et al. 2017, arXiv:1701.06538, eq. 3-5 (gauss); Fedus et al. 2021, arXiv:2101.03961,
eq. 3-6 (balance, capacity, jitter); Zoph et al. 2022, arXiv:2202.08906, eq. 5 (z); Jiang et al.
2024, arXiv:2401.04088 (norm); DeepSeek-AI 2024, arXiv:2412.19437, eq. 16 (rate).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Float, Int, Word
from ops.kernels.rows import GATED, gated
from ops.mlp.common import gated_hidden, mlp_shape
from ops.spec import Cost, Mismatch, Op, TensorType


class MoE(nn.Module):
    balance: Tensor

    def __init__(
        self,
        dim: int,
        hidden: int,
        experts: int,
        active: int,
        norm: bool = True,
        shared: int = 0,
        aux: float = 1e-2,
        z: float = 1e-3,
        rate: float = 0.0,
        noise: str = "none",
        capacity: float | None = None,
    ) -> None:
        super().__init__()
        self.experts, self.active, self.norm = experts, active, norm
        self.aux, self.z, self.rate, self.capacity = aux, z, rate, capacity
        self.jitter = noise == "jitter"
        self.router = nn.Parameter(0.02 * torch.randn(experts, dim))
        self.spread = nn.Parameter(torch.zeros(experts, dim)) if noise == "gauss" else None
        enter = torch.rand(experts + shared, dim, 2 * hidden) * 2 - 1
        leave = torch.rand(experts + shared, hidden, dim) * 2 - 1
        self.gate_up = nn.Parameter(enter / math.sqrt(dim))
        self.down = nn.Parameter(leave / math.sqrt(hidden))
        self.register_buffer("balance", torch.zeros(experts))

    def expert(self, x: Tensor, index: int) -> Tensor:
        return gated(x @ self.gate_up[index], "silu") @ self.down[index]

    def layout(self, chosen: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The row of each slot [N active] (the last row: of none), the slot's token of each row
        (N: of none) [blocks, size], and the expert of each block [blocks]."""
        count, experts = chosen.numel(), self.experts
        size = max(1, -(-count // (4 * experts)))
        blocks = count // size + experts
        ids = torch.where(kept, chosen, experts).flatten()
        held = (ids[:, None] == torch.arange(experts, device=ids.device)).sum(0)
        needed = (held + size - 1) // size
        end = needed.cumsum(0)
        order = ids.argsort(stable=True)
        ranked, place = ids[order], torch.arange(count, device=ids.device)
        shift = F.pad((end - needed) * size - held.cumsum(0) + held, (0, 1))
        row = torch.where(ranked < experts, place + shift[ranked], blocks * size)
        tokens = torch.full((blocks * size + 1,), chosen.shape[0], device=ids.device)
        tokens = tokens.scatter(0, row, order // chosen.shape[1])[:-1].view(blocks, size)
        owner = torch.searchsorted(end, torch.arange(blocks, device=ids.device), right=True)
        return torch.zeros_like(row).scatter(0, order, row), tokens, owner.clamp_max(experts - 1)

    def routed(self, x: Tensor, chosen: Tensor, kept: Tensor, w: Tensor) -> Tensor:
        """The weighted sum over the chosen experts, [N, D]."""
        row, tokens, owner = self.layout(chosen, kept)
        given = F.pad(x, (0, 0, 0, 1))[tokens]
        gate, up = (given @ self.gate_up[owner]).chunk(2, -1)
        out = (F.silu(gate) * up) @ self.down[owner]
        out = F.pad(out.flatten(0, 1), (0, 0, 0, 1))[row].view(*chosen.shape, -1)
        return (out * w[..., None].to(x.dtype)).sum(1)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits and probabilities [N, E], chosen experts and their weights [N, active]."""
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(wide)
            if self.training and self.jitter:
                x = x * torch.empty_like(x).uniform_(0.99, 1.01)
            logits = F.linear(x, self.router.to(wide))
            if self.training and self.spread is not None:
                scale = F.softplus(F.linear(x, self.spread.to(wide)))
                logits = logits + torch.randn_like(logits) * scale
            p = logits.softmax(-1)
            chosen = (p + self.balance).topk(self.active, sorted=False).indices
            w = p.gather(1, chosen)
            return logits, p, chosen, w / w.sum(-1, keepdim=True) if self.norm else w

    def taken(self, chosen: Tensor, real: Tensor) -> Tensor:
        """[N, active, E]: which slot goes to which expert."""
        sent = F.one_hot(chosen, self.experts).bool() & real[:, None, None]
        if self.capacity is None:
            return sent
        most = torch.ceil(self.capacity * self.active / self.experts * real.sum())
        return sent & (sent.flatten(0, 1).long().cumsum(0).view_as(sent) <= most)

    def forward(
        self, x: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        flat = x.flatten(0, -2)
        real = torch.ones_like(flat[:, 0], dtype=torch.bool) if mask is None else mask.flatten()
        logits, p, chosen, w = self.route(flat)
        y = self.routed(flat, chosen, self.taken(chosen, real).any(-1), w)
        for index in range(self.experts, self.gate_up.shape[0]):
            y = y + self.expert(flat, index)
        count = real.sum().clamp(min=1)
        sent = F.one_hot(chosen, self.experts).sum(1).to(p.dtype) * real[:, None]
        load = sent.sum(0) / (count * self.active)
        share = (p * real[:, None]).sum(0) / count
        square = (logits.logsumexp(-1).square() * real).sum() / count
        aux = self.aux * self.experts * (load * share).sum() + self.z * square
        return y.view_as(x), aux, (load,)

    @torch.no_grad()
    def update(self, stats: tuple[Tensor, ...]) -> None:
        self.balance.add_(self.rate * torch.sign(1 / self.experts - stats[0]))


def _shape(x: TensorType, experts: int, active: int, norm: bool, **_: Any) -> TensorType:
    if active > experts:
        raise Mismatch(
            f"active={active} of experts={experts}",
            param="active",
            hint=f"active may be at most {experts} here",
        )
    if norm and active == 1:
        raise Mismatch(
            "active=1 with norm gives the weight 1 whatever the router says",
            param="norm",
            hint="say norm=false: no gradient would reach the router",
        )
    return mlp_shape(x)


def _init(x: TensorType, mult: float, **params: Any) -> dict[str, Any]:
    return {"dim": x.dim, "hidden": gated_hidden(x.dim, mult), **params}


def _cost(
    x: TensorType, mult: float, experts: int, active: int, shared: int, noise: str, **_: Any
) -> Cost:
    d, hidden = x.dim, gated_hidden(x.dim, mult)
    count, one = x.numel // d, 3 * d * hidden
    router = (1 + (noise == "gauss")) * d * experts
    return Cost(
        router + (experts + shared) * one,
        2 * count * (router + (active + shared) * one),
        4 * count * (3 * experts + 3 * active * (d + hidden)),
    )


OP = Op(
    name="moe",
    module=MoE,
    params={
        "experts": Int(1, 256, log=True, default=8),
        "active": Int(1, 256, log=True, default=2),
        "mult": Float(0.125, 16.0, default=8 / 3),
        "norm": Flag(default=True),
        "shared": Int(0, 16, default=0),
        "aux": Float(0.0, 1.0, default=1e-2),
        "z": Float(0.0, 1.0, default=1e-3),
        "rate": Float(0.0, 1.0, default=0.0),
        "noise": Word(("none", "gauss", "jitter"), default="none"),
        "capacity": Float(0.01, 1e4, log=True, default=None, none=True),
    },
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=lambda x, capacity, **_: capacity is None,
    returns=("y", "aux", "stats"),
    mask="use",
    uses=GATED,
    paper="arXiv:2101.03961",
)
