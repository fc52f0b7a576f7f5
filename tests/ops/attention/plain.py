"""What the attention tests compare with: the engine's plain attention with a variant's weights."""

from typing import Any

import torch
from torch import Tensor

from ops.attention.engine import ScoreAttention


def data(length: int = 21, dim: int = 12, seed: int = 1) -> Tensor:
    """[2, length, dim] in float64."""
    torch.manual_seed(seed)
    return torch.randn(2, length, dim, dtype=torch.float64)


def plain(layer: ScoreAttention, **settings: Any) -> ScoreAttention:
    """Multi-head softmax attention with the projections of `layer`."""
    dim = layer.q.in_features
    dense = ScoreAttention(dim, layer.heads, layer.causal, layer.pos, layer.kv_heads, **settings)
    dense.load_state_dict({k: v for k, v in layer.state_dict().items() if k in dense.state_dict()})
    return dense.double()


def values(layer: ScoreAttention, x: Tensor) -> Tensor:
    """The value projection of every token, [B, T, D]."""
    v: Tensor = layer.kv(x).chunk(2, -1)[1]
    return v
