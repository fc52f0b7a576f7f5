"""What the Titans blocks share: attention with persistent tokens, the gate of two branches."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Domain, Int
from ops.memory.neural import MEMORY_PARAMS, memory_cost, memory_sizes
from ops.spec import Cost, TensorType, need, need_divides, seq


class PersistentAttention(nn.Module):
    """Causal softmax attention to a window and to a prefix that every token sees.

    z [B, T, D], prefix [B, N, D] -> [B, T, D]; token t sees s with 0 <= t - s < window.
    """

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.query = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def split(self, z: Tensor) -> Tensor:
        return torch.unflatten(z, -1, (self.heads, -1)).transpose(1, 2)

    def keys(self, z: Tensor) -> tuple[Tensor, Tensor]:
        k, v = self.kv(z).chunk(2, -1)
        return self.split(k), self.split(v)

    def mix(self, z: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        y = F.scaled_dot_product_attention(self.split(self.query(z)), k, v, attn_mask=seen)
        mixed: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return mixed

    def forward(self, z: Tensor, prefix: Tensor) -> Tensor:
        k, v = self.keys(torch.cat([prefix, z], 1))
        place = torch.arange(z.shape[1], device=z.device)
        age = place[:, None] - place
        seen = F.pad((age >= 0) & (age < self.window), (prefix.shape[1], 0), value=True)
        return self.mix(z, k, v, seen)

    def init_state(self, prefix: Tensor) -> tuple[Tensor, ...]:
        """Keys and values of the prefix, a ring of the window, the place."""
        k, v = self.keys(prefix)
        shape = (prefix.shape[0], self.heads, self.window, k.shape[-1])
        place = torch.zeros(1, dtype=torch.long, device=k.device)
        return k, v, k.new_zeros(shape), k.new_zeros(shape), place

    def step(self, z: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        first_k, first_v, keys, values, place = state
        k, v = self.keys(z)
        slot = place % self.window
        keys, values = keys.index_copy(2, slot, k), values.index_copy(2, slot, v)
        filled = torch.arange(self.window, device=z.device)[None] <= place
        seen = F.pad(filled, (first_k.shape[2], 0), value=True)
        k, v = torch.cat([first_k, keys], 2), torch.cat([first_v, values], 2)
        return self.mix(z, k, v, seen), (first_k, first_v, keys, values, place + 1)


class BranchGate(nn.Module):
    """rms_norm(y) * sig(rms_norm(m)), each norm with its own scale [D]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale_y = nn.Parameter(torch.ones(dim))
        self.scale_m = nn.Parameter(torch.ones(dim))

    def forward(self, y: Tensor, m: Tensor) -> Tensor:
        shape = self.scale_y.shape
        gate = F.rms_norm(m, shape, self.scale_m.to(m.dtype), 1e-6).sigmoid()
        return F.rms_norm(y, shape, self.scale_y.to(y.dtype), 1e-6) * gate


def titans_params(reach: str, low: int, default: int) -> Mapping[str, Domain]:
    """The parameters of a block; `reach` is the name of its window or segment."""
    memory = {name: d for name, d in MEMORY_PARAMS.items() if name != "heads"}
    if reach == "segment":
        del memory["chunk"]
    return {
        "heads": Int(1, 64, log=True),
        reach: Int(low, 65536, log=True, default=default),
        "persistent": Int(0, 1024, default=4),
        "memories": Int(1, 64, log=True, default=1),
        **memory,
    }


def titans_shape(x: TensorType, heads: int, memories: int, **_: Any) -> TensorType:
    """A seq, kept. Raises: Mismatch unless heads and memories divide the width."""
    need(x, "seq")
    need_divides(heads, x.dim)
    need_divides(memories, x.dim, param="memories")
    return x


def remembered(length: int, x: TensorType, memories: int, **params: Any) -> Cost:
    """The cost of the memory on `length` tokens of the width of x."""
    return memory_cost(seq(length, x.dim), heads=memories, **params)


def remembered_size(x: TensorType, memories: int, depth: int, mult: int) -> int:
    """The number of weights of the memory."""
    return memory_sizes(x, memories, depth, mult)[2]
