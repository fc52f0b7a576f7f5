"""Titans MAG, memory as a gate: window attention, multiplied by what a neural memory recalls.

    x~ = [P || x],   y = window attention(x), P always visible,   m = memory(x~)
    o = rms_norm(y) * sig(rms_norm(m)), each norm with a scale of its own

P [persistent, D] are learned tokens, the same for every sequence; the memory reads them first.
Causal. Shapes: x [B, T, D] -> [B, T, D]. Attention has `heads`, the memory `memories`; the other
parameters are those of `neural_memory`. No positions: put them before.
Mask: padding on the right changes no token before it, so none is taken.
State, constant in T: that of the memory, keys and values of P and of `window` tokens, the place.
Cost, N persistent: 4 D^2 + (2 + N) D parameters and those of the memory; 4 T D^2 + 4 (N + T) D^2 +
4 T (N + T) D FLOPs (the whole table) and those of the memory on N + T tokens.
Paper: Behrouz et al. 2025, "Titans", arXiv:2501.00663, section 4.2, eq. 26-28.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ops.kernels.surprise import MEMORY
from ops.memory.common import (
    BranchGate,
    PersistentAttention,
    remembered,
    titans_params,
    titans_shape,
)
from ops.memory.neural import NeuralMemory
from ops.spec import Cost, Op, TensorType


class TitansMAG(nn.Module):
    def __init__(
        self,
        dim: int,
        heads: int,
        window: int,
        persistent: int = 4,
        memories: int = 1,
        depth: int = 2,
        mult: int = 2,
        chunk: int = 16,
        conv: int = 4,
        act: str = "gelu",
        rate: float = 1.0,
    ) -> None:
        super().__init__()
        self.prefix = nn.Parameter(0.02 * torch.randn(persistent, dim)) if persistent else None
        self.attention = PersistentAttention(dim, heads, window)
        self.memory = NeuralMemory(dim, memories, depth, mult, chunk, conv, act, rate)
        self.join = BranchGate(dim)

    def first(self, batch: int) -> Tensor:
        """The persistent tokens, [batch, persistent, D]."""
        if self.prefix is None:
            weight = self.attention.query.weight
            return weight.new_zeros(batch, 0, weight.shape[0])
        return self.prefix.repeat(batch, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        prefix = self.first(x.shape[0])
        m = self.memory(torch.cat([prefix, x], 1))[:, prefix.shape[1] :]
        joined: Tensor = self.join(self.attention(x, prefix), m)
        return joined

    def init_state(self, batch: int, length: int) -> tuple[tuple[Tensor, ...], ...]:
        prefix, memory = self.first(batch), self.memory.init_state(batch, length)
        for i in range(prefix.shape[1]):
            _, memory = self.memory.step(prefix[:, i : i + 1], memory)
        return self.attention.init_state(prefix), memory

    def step(
        self, x: Tensor, state: tuple[tuple[Tensor, ...], ...]
    ) -> tuple[Tensor, tuple[tuple[Tensor, ...], ...]]:
        y, attention = self.attention.step(x, state[0])
        m, memory = self.memory.step(x, state[1])
        return self.join(y, m), (attention, memory)


def _cost(x: TensorType, heads: int, window: int, persistent: int, **memory: Any) -> Cost:
    t, d, n = x.length, x.dim, persistent
    rest = remembered(n + t, x, **memory)
    flops = 4 * t * d * d + 4 * (n + t) * d * d + 4 * t * (n + t) * d
    return Cost(
        4 * d * d + (2 + n) * d + rest.params,
        flops + rest.flops,
        rest.activation + 4 * (8 * t * d + t * (n + t) * heads),
        rest.state + 8 * (n + window) * d + 8,
    )


OP = Op(
    name="titans_mag",
    module=TitansMAG,
    params=titans_params("window", 1, 128),
    shape=titans_shape,
    cost=_cost,
    causal=True,
    state=True,
    uses=(*MEMORY, NeuralMemory, PersistentAttention, BranchGate),
    paper="arXiv:2501.00663",
)
