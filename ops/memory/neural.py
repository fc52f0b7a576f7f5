"""Neural memory (LMM of Titans): a small network per head that learns k -> v while it reads.

    q, k, v = silu(conv(x W_q)), silu(conv(x W_k)), silu(conv(x W_v));   q, k to length 1
    alpha = sig(x w_a + b_a),  eta = sig(x w_e + b_e),  theta = rate sig(x w_t + b_t)   per head
    memory as in `ops/kernels/surprise.py`;   y = W_o (rms_norm(M_t(q_t)) * sig(x W_g))

`depth` 1: M(k) = k W; 2: M(k) = act(k W_1) W_2 with mult K hidden units. `chunk` C: the gradients
of C tokens are taken at the weights of the chunk's start; C = 1 is the recurrence itself. W_0 is
learned. Gates start at alpha .01, eta .9, theta .01 rate. The loss of the memory is not part of the
model's loss.
Causal. Shapes: x [B, T, D] -> [B, T, D], K = D / heads; conv: depthwise, `conv` taps (1: none).
Mask: padding on the right changes no token before it, so none is taken.
State, constant in T: weights, momenta, the chunk's first weights (fp32), the last conv - 1 inputs
of the filters, the place in the chunk.
Cost: 5 D^2 + 3 D heads + 3 heads + 3 conv D + K + |W_0| parameters; 10 T D^2 + 6 T D heads +
6 conv T D FLOPs and, per head and chunk, 2 C^2 (C + 1) and 10 C K^2 + 4 C^2 K (depth 1) or
22 C K E + 4 C^2 (K + E).
Paper: Behrouz et al. 2025, "Titans", arXiv:2501.00663, sections 3.1, 3.2 and 4.4 (the maps of the
gates and their start are ours; no residual and norm inside the memory, as in the paper).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Domain, Float, Int, Word
from ops.kernels.surprise import (
    MEMORY,
    memory_flops,
    memory_read,
    memory_scan,
    memory_surprise,
)
from ops.spec import Cost, Op, TensorType, need, need_divides


class NeuralMemory(nn.Module):
    def __init__(
        self,
        dim: int,
        heads: int = 1,
        depth: int = 2,
        mult: int = 2,
        chunk: int = 16,
        conv: int = 4,
        act: str = "gelu",
        rate: float = 1.0,
    ) -> None:
        super().__init__()
        self.heads, self.chunk, self.taps, self.act, self.rate = heads, chunk, conv, act, rate
        width = dim // heads
        hidden = mult * width
        sizes = [(width, width)] if depth == 1 else [(width, hidden), (hidden, width)]
        self.start = nn.ParameterList(torch.randn(heads, a, b) / math.sqrt(a) for a, b in sizes)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.filter = nn.Parameter((torch.rand(3 * dim, 1, conv) * 2 - 1) / math.sqrt(conv))
        self.gates = nn.Linear(dim, 3 * heads)
        nn.init.normal_(self.gates.weight, std=0.02)
        with torch.no_grad():
            begin = torch.tensor([0.01, 0.9, 0.01]).logit()
            self.gates.bias.copy_(begin.repeat_interleave(heads))
        self.scale = nn.Parameter(torch.ones(width))
        self.gate = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def parts(self, mixed: Tensor) -> list[Tensor]:
        """q, k, v [B, H, T, K] of filtered projections [B, T, 3 D], in fp32."""
        wide = torch.promote_types(mixed.dtype, torch.float32)
        q, k, v = torch.unflatten(F.silu(mixed.to(wide)), -1, (3, self.heads, -1)).unbind(2)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        return [z.transpose(1, 2) for z in (q, k, v)]

    def rates(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha, eta, theta [B, H, T], in fp32."""
        wide = torch.promote_types(x.dtype, torch.float32)
        alpha, eta, theta = self.gates(x).to(wide).sigmoid().mT.chunk(3, 1)
        return alpha, eta, self.rate * theta

    def fresh(self, batch: int) -> tuple[list[Tensor], list[Tensor]]:
        """The learned first weights, and no momentum."""
        wide = torch.promote_types(self.scale.dtype, torch.float32)
        weights = [w.to(wide).expand(batch, -1, -1, -1) for w in self.start]
        return weights, [torch.zeros_like(w) for w in weights]

    def merge(self, y: Tensor, x: Tensor) -> Tensor:
        """[B, H, T, K] -> [B, T, D]: norm, gate, projection."""
        y = F.rms_norm(y, (y.shape[-1],), self.scale.to(y.dtype), 1e-6).to(x.dtype)
        merged: Tensor = self.out(y.transpose(1, 2).flatten(2) * self.gate(x).sigmoid())
        return merged

    def filtered(self, x: Tensor) -> Tensor:
        z: Tensor = self.qkv(x)
        if self.taps == 1:
            return z * self.filter[:, 0, 0]
        return F.conv1d(F.pad(z.mT, (self.taps - 1, 0)), self.filter, groups=z.shape[-1]).mT

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.parts(self.filtered(x))
        gates = self.rates(x)
        with torch.autocast(x.device.type, enabled=False):
            y, _ = memory_scan(q, k, v, gates, self.fresh(x.shape[0]), self.chunk, self.act)
        return self.merge(y, x)

    def init_state(self, batch: int, length: int) -> tuple[Tensor, ...]:
        weights, momenta = self.fresh(batch)
        tail = self.qkv.weight.new_zeros(batch, self.taps - 1, self.qkv.weight.shape[0])
        place = torch.zeros(1, dtype=torch.long, device=tail.device)
        copies = [w.clone() for w in (*weights, *weights)]
        return (*copies, *momenta, tail, place)

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        *parts, tail, place = state
        n = len(self.start)
        weights, first, momenta = parts[:n], parts[n : 2 * n], parts[2 * n :]
        seen = torch.cat([tail, self.qkv(x)], 1)
        mixed = (seen * self.filter[:, 0].mT).sum(1, keepdim=True)
        q, k, v = self.parts(mixed)
        alpha, eta, theta = (g[..., None] for g in self.rates(x))
        a, delta = memory_surprise(k, v, first, self.act)
        pairs = zip(momenta, a, delta, strict=True)
        momenta = [eta * s - theta * (u.mT @ d) for s, u, d in pairs]
        weights = [(1 - alpha) * w + s for w, s in zip(weights, momenta, strict=True)]
        y = self.merge(memory_read(q, weights, self.act), x)
        place = (place + 1) % self.chunk
        first = [torch.where(place == 0, w, f) for w, f in zip(weights, first, strict=True)]
        return y, (*weights, *first, *momenta, seen[:, 1:], place)


def memory_sizes(x: TensorType, heads: int, depth: int, mult: int) -> tuple[int, int | None, int]:
    """The head width, the hidden width (None: one layer) and the size of a memory, all heads."""
    width = x.dim // heads
    hidden = None if depth == 1 else mult * width
    return width, hidden, heads * width * (width if hidden is None else 2 * hidden)


def memory_cost(
    x: TensorType, heads: int, depth: int, mult: int, chunk: int, conv: int, **_: Any
) -> Cost:
    """The cost of the whole memory on a sequence of x's length."""
    t, d = x.length, x.dim
    width, hidden, size = memory_sizes(x, heads, depth, mult)
    params = 5 * d * d + 3 * d * heads + 3 * heads + 3 * conv * d + width + size
    flops = 10 * t * d * d + 6 * t * d * heads + 6 * conv * t * d * (conv > 1)
    flops += memory_flops(t, heads, width, hidden, chunk)
    kept = 4 * (
        -(-t // chunk) * 2 * size + t * (9 * d + (8 + 2 * chunk.bit_length()) * heads * chunk)
    )
    return Cost(params, flops, kept, 4 * (3 * size + 3 * (conv - 1) * d) + 8)


MEMORY_PARAMS: dict[str, Domain] = {
    "heads": Int(1, 64, log=True, default=1),
    "depth": Int(1, 2, default=2),
    "mult": Int(1, 8, default=2),
    "chunk": Int(1, 1024, log=True, default=16),
    "conv": Int(1, 8, default=4),
    "act": Word(("gelu", "silu"), default="gelu"),
    "rate": Float(1e-4, 10.0, log=True, default=1.0),
}


def _shape(x: TensorType, heads: int, **_: Any) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    return x


OP = Op(
    name="neural_memory",
    module=NeuralMemory,
    params=MEMORY_PARAMS,
    shape=_shape,
    cost=memory_cost,
    causal=True,
    state=True,
    uses=MEMORY,
    paper="arXiv:2501.00663",
)
