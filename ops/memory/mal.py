"""Titans MAL, memory as a layer: a neural memory, then window attention over what it gives.

    x~ = [P || x],   y = memory(x~),   o = window attention(y), the first tokens y_P always visible

P [persistent, D] are learned tokens, the same for every sequence; the memory reads them first.
Causal. Shapes: x [B, T, D] -> [B, T, D]. Attention has `heads`, the memory `memories`; the other
parameters are those of `neural_memory`. No positions: put them before.
Mask: padding on the right changes no token before it, so none is taken.
State, constant in T: that of the memory, keys and values of y_P and of `window` tokens, the place.
Cost, N persistent: 4 D^2 + N D parameters and those of the memory; 4 T D^2 + 4 (N + T) D^2 +
4 T (N + T) D FLOPs (the whole table) and those of the memory on N + T tokens.
Paper: Behrouz et al. 2025, "Titans", arXiv:2501.00663, section 4.3, eq. 29-31.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ops.kernels.surprise import MEMORY
from ops.memory.common import PersistentAttention, remembered, titans_params, titans_shape
from ops.memory.neural import NeuralMemory
from ops.spec import Cost, Op, TensorType


class TitansMAL(nn.Module):
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
        self.memory = NeuralMemory(dim, memories, depth, mult, chunk, conv, act, rate)
        self.attention = PersistentAttention(dim, heads, window)

    def forward(self, x: Tensor) -> Tensor:
        count = 0
        if self.prefix is not None:
            count = self.prefix.shape[0]
            x = torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], 1)
        y = self.memory(x)
        mixed: Tensor = self.attention(y[:, count:], y[:, :count])
        return mixed

    def init_state(self, batch: int, length: int) -> tuple[tuple[Tensor, ...], ...]:
        memory = self.memory.init_state(batch, length)
        weight = self.attention.query.weight
        first = [weight.new_zeros(batch, 0, weight.shape[0])]
        if self.prefix is not None:
            for i in range(self.prefix.shape[0]):
                token = self.prefix[None, i : i + 1].expand(batch, -1, -1)
                y, memory = self.memory.step(token, memory)
                first.append(y)
        return self.attention.init_state(torch.cat(first, 1)), memory

    def step(
        self, x: Tensor, state: tuple[tuple[Tensor, ...], ...]
    ) -> tuple[Tensor, tuple[tuple[Tensor, ...], ...]]:
        y, memory = self.memory.step(x, state[1])
        mixed, attention = self.attention.step(y, state[0])
        return mixed, (attention, memory)


def _cost(x: TensorType, heads: int, window: int, persistent: int, **memory: Any) -> Cost:
    t, d, n = x.length, x.dim, persistent
    rest = remembered(n + t, x, **memory)
    flops = 4 * t * d * d + 4 * (n + t) * d * d + 4 * t * (n + t) * d
    return Cost(
        4 * d * d + n * d + rest.params,
        flops + rest.flops,
        rest.activation + 4 * (6 * t * d + t * (n + t) * heads),
        rest.state + 8 * (n + window) * d + 8,
    )


OP = Op(
    name="titans_mal",
    module=TitansMAL,
    params=titans_params("window", 1, 128),
    shape=titans_shape,
    cost=_cost,
    causal=True,
    state=True,
    uses=(*MEMORY, NeuralMemory, PersistentAttention),
    paper="arXiv:2501.00663",
)
