"""Multi-layer pooling: one vector of every layer, read by latents as in `trainable_pool`.

    X_l = (last real token | masked mean) of layer l + e_l,   y = trainable pooling of X_1 .. X_n

e [layers, D] is learned, N(0, 1). `layers=@h[]` gives the layers; x, as a rule the last of them,
tells the width and the padding. Every layer has a gradient of its own.
Not causal: sequences become one vector. Shapes: x [B, T, D], layers n times [B, T, D] -> [B, D].
Mask: padded tokens take no part (all layers share the padding of x).
Cost: n D parameters and those of `trainable_pool`, FLOPs as there over n vectors: without T.
Paper: Tang & Yang 2024, "Pooling and Attention", arXiv:2409.02727, section 3.2.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from grammar.domain import Word
from ops.pool.trainable import POOL_PARAMS, CrossPool, last_token, pool_cost, pool_init
from ops.spec import Cost, Input, Mismatch, Op, TensorType, vec


class MultilayerPool(nn.Module):
    def __init__(
        self,
        dim: int,
        heads: int,
        width: int,
        latents: int,
        norm: bool,
        count: int,
        reduce: str = "last",
    ) -> None:
        super().__init__()
        self.last = reduce == "last"
        self.layer = nn.Parameter(torch.randn(count, dim))
        self.block = CrossPool(dim, heads, width, latents, norm)

    def reduced(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.last:
            return last_token(x, mask)
        if mask is None:
            return x.mean(1)
        return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)

    def forward(self, x: Tensor, layers: tuple[Tensor, ...], mask: Tensor | None = None) -> Tensor:
        rows = torch.stack([self.reduced(h, mask) for h in layers], 1)
        y: Tensor = self.block(rows + self.layer)
        return y


def _shape(x: TensorType, layers: TensorType, reduce: str, many: int, **params: Any) -> TensorType:
    pool_init(x, **params)
    for layer in layers.items:
        if (layer.kind, layer.shape) != (x.kind, x.shape):
            raise Mismatch(f"a layer is {layer}, x is {x}", hint="all layers need one shape")
    return vec(x.dim)


def _init(x: TensorType, reduce: str, many: int, **params: Any) -> dict[str, Any]:
    return pool_init(x, **params) | {"count": many, "reduce": reduce}


def _cost(x: TensorType, layers: TensorType, reduce: str, many: int, **params: Any) -> Cost:
    block = pool_cost(x, many, **params)
    return replace(block, params=block.params + many * x.dim)


OP = Op(
    name="multilayer_pool",
    module=MultilayerPool,
    params={**POOL_PARAMS, "reduce": Word(("last", "mean"), default="last")},
    inputs=(Input("layers", "static", many=True),),
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=False,
    mask="end",
    needs=("many",),
    uses=(CrossPool, last_token),
    paper="arXiv:2409.02727",
)
