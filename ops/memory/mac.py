"""Titans MAC, memory as context: each segment attends to what the memory recalls for its tokens.

    for each segment S of `segment` tokens, M the memory after the segment before it:
    h = M(q),  q = silu(S W_q) to length 1;   y = attention of S to [P || h || S]
    M' = M updated with y, token by token;   o_t = rms_norm(y_t) * sig(rms_norm(M'_t(y_t)))

P [persistent, D], learned, is visible to all tokens of a segment. h_j is made from x_j, so token i
sees h_j and x_j for j <= i only, and o_t reads the memory as it is after token t: causal inside a
segment too, where the paper lets h be seen whole. A segment is one chunk of the memory: its
gradients are taken at M.
Shapes: x [B, T, D] -> [B, T, D]. Attention has `heads`, the memory `memories`; the other parameters
are those of `neural_memory` (its filters run on across segments). No positions: put them before.
Mask: padding on the right changes no token before it, so none is taken.
State, constant in T: that of the memory, keys and values of one segment's h and x.
Cost, N persistent: 5 D^2 + (2 + N) D parameters and those of the memory; per segment of C tokens
6 C D^2 + 4 (N + 2 C) D^2 + 4 C (N + 2 C) D FLOPs and the read of h, and the memory's on T tokens.
Paper: Behrouz et al. 2025, "Titans", arXiv:2501.00663, section 4.1, eq. 21-25.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.kernels.surprise import MEMORY, memory_read, memory_scan
from ops.memory.common import (
    BranchGate,
    PersistentAttention,
    remembered,
    remembered_size,
    titans_params,
    titans_shape,
)
from ops.memory.neural import NeuralMemory
from ops.spec import Cost, Op, TensorType


class TitansMAC(nn.Module):
    def __init__(
        self,
        dim: int,
        heads: int,
        segment: int,
        persistent: int = 4,
        memories: int = 1,
        depth: int = 2,
        mult: int = 2,
        conv: int = 4,
        act: str = "gelu",
        rate: float = 1.0,
    ) -> None:
        super().__init__()
        self.prefix = nn.Parameter(0.02 * torch.randn(persistent, dim)) if persistent else None
        self.segment = segment
        self.recall = nn.Linear(dim, dim, bias=False)
        self.attention = PersistentAttention(dim, heads, segment)
        self.memory = NeuralMemory(dim, memories, depth, mult, segment, conv, act, rate)
        self.join = BranchGate(dim)

    def first(self, batch: int) -> Tensor:
        """The persistent tokens, [batch, persistent, D]."""
        if self.prefix is None:
            return self.recall.weight.new_zeros(batch, 0, self.recall.weight.shape[0])
        return self.prefix.expand(batch, -1, -1)

    def recalled(self, x: Tensor, weights: list[Tensor]) -> Tensor:
        """h [B, C, D]."""
        q = F.silu(self.recall(x)).to(weights[0].dtype)
        q = torch.unflatten(q, -1, (self.memory.heads, -1))
        q = F.normalize(q, dim=-1).transpose(1, 2)
        return memory_read(q, weights, self.memory.act).transpose(1, 2).flatten(2).to(x.dtype)

    def attend(self, x: Tensor, weights: list[Tensor]) -> Tensor:
        prefix, h = self.first(x.shape[0]), self.recalled(x, weights)
        k, v = self.attention.keys(torch.cat([prefix, h, x], 1))
        size = x.shape[1]
        past = torch.ones(size, size, dtype=torch.bool, device=x.device).tril()
        seen = F.pad(torch.cat([past, past], 1), (prefix.shape[1], 0), value=True)
        return self.attention.mix(x, k, v, seen)

    def forward(self, x: Tensor) -> Tensor:
        state, memory, rows = self.memory.fresh(x.shape[0]), self.memory, []
        tail = x[:, :0]
        for at in range(0, x.shape[1], self.segment):
            part = x[:, at : at + self.segment]
            y = self.attend(part, state[0])
            seen = torch.cat([tail, y], 1)
            q, k, v = (z[:, :, -y.shape[1] :] for z in memory.parts(memory.filtered(seen)))
            m, state = memory_scan(q, k, v, memory.rates(y), state, self.segment, memory.act)
            rows.append(self.join(y, memory.merge(m, y)))
            tail = seen[:, max(0, seen.shape[1] - memory.taps + 1) :]
        return torch.cat(rows, 1)

    def init_state(self, batch: int, length: int) -> tuple[Tensor, ...]:
        weight, heads = self.recall.weight, self.attention.heads
        shape = (2, batch, heads, self.segment, weight.shape[0] // heads)
        return (
            weight.new_zeros(shape),
            weight.new_zeros(shape),
            *self.memory.init_state(batch, length),
        )

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        keys, values, *memory = state
        count, place = len(self.memory.start), memory[-1]
        h = self.recalled(x, memory[count : 2 * count])
        k, v = self.attention.keys(torch.cat([h, x], 1))
        k, v = (torch.stack(z.chunk(2, 2)) for z in (k, v))
        keys, values = keys.index_copy(3, place, k), values.index_copy(3, place, v)
        first = self.attention.keys(self.first(x.shape[0]))
        k, v = (torch.cat([p, *z.unbind(0)], 2) for p, z in zip(first, (keys, values), strict=True))
        past = (torch.arange(self.segment, device=x.device)[None] <= place).repeat(1, 2)
        seen = F.pad(past, (first[0].shape[2], 0), value=True)
        y = self.attention.mix(x, k, v, seen)
        m, after = self.memory.step(y, tuple(memory))
        return self.join(y, m), (keys, values, *after)


def _cost(
    x: TensorType, heads: int, segment: int, persistent: int, conv: int, **memory: Any
) -> Cost:
    t, d, n = x.length, x.dim, persistent
    memory = {**memory, "chunk": segment, "conv": conv}
    rest = remembered(t, x, **memory)
    names = ("memories", "depth", "mult")
    size = remembered_size(x, **{name: memory[name] for name in names})
    flops, kept = 2 * t * size, rest.activation
    for at in range(0, t, segment):
        c = min(segment, t - at)
        flops += (
            remembered(c, x, **memory).flops
            + 6 * c * d * d
            + 4 * (n + 2 * c) * d * d
            + 4 * c * (n + 2 * c) * d
        )
        kept += 4 * (8 * c * d + 2 * n * d + c * (n + 2 * c) * heads)
        if at:  # the filter's last tokens are projected again
            again = min(at, conv - 1)
            flops += again * d * (6 * d + 6 * conv)
    return Cost(5 * d * d + (2 + n) * d + rest.params, flops, kept, rest.state + 16 * segment * d)


OP = Op(
    name="titans_mac",
    module=TitansMAC,
    params=titans_params("segment", 1, 128),
    shape=titans_shape,
    cost=_cost,
    causal=True,
    state=True,
    uses=(*MEMORY, NeuralMemory, PersistentAttention, BranchGate),
    paper="arXiv:2501.00663",
)
