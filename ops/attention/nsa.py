"""Native sparse attention: compressed blocks, chosen blocks and a window, mixed by gates.

    y_t = W_o concat_h (g1 o_blocks + g2 o_chosen + g3 o_window),   g = sigmoid(x_t W_g) per head
    o_blocks: softmax over the mean keys and values of the blocks that ended by t  -> p_tc
    o_chosen: softmax over tokens s <= t of `top` blocks: the first, t's own and the one before,
              then those of the largest p_tc, summed over the heads that share keys
    o_window: softmax over t - window < s <= t

Causal, also in its choice. Shapes: x [B, T, D] -> [B, T, D], K = D / heads; `kv_heads` key/value
heads, shared by the three branches; blocks of `block` tokens without overlap. The choice has no
gradient: the compressed branch learns through o_blocks. A row without a finished block has o_blocks
= 0. Mask: keys at padding are left out, also of the means. State: keys and values of all tokens so
far, and the position. Cost, with P = 2 kv_heads K, n = ceil(T / block): 2 D^2 + D P + 3 D heads
parameters; 4 T D^2 + 2 T D P + 6 T D heads + 6 T^2 D + 4 T n D FLOPs (all scores are computed, once
for both branches). Paper: Yuan et al. 2025, arXiv:2502.11089, eq. 5-12. Differs: blocks are means
(a learned map with overlap in the paper), keys are shared by the branches, one block size.
"""

import torch
from torch import Tensor, nn

from grammar.domain import Int, Word
from ops.attention.engine import attention_shape, masked_softmax, split_heads
from ops.attention.moba import block_means
from ops.attention.pattern import PATTERN_ENGINE, PatternAttention
from ops.kernels.dispatch import on_triton
from ops.kernels.sparse import SparsePattern, sparse_blocks
from ops.spec import Cost, Mismatch, Op, TensorType


class NativeSparseAttention(PatternAttention):
    def __init__(
        self,
        dim: int,
        heads: int,
        kv_heads: int | None = None,
        block: int = 64,
        top: int = 16,
        window: int = 512,
        pos: str = "none",
    ) -> None:
        super().__init__(dim, heads, True, pos, kv_heads)
        self.block, self.top, self.window = block, top, window
        self.gate = nn.Linear(dim, 3 * heads, bias=False)

    def chosen(self, p: Tensor, place: Tensor) -> Tensor:
        """Which blocks are read, [B, kv_heads, T, N], from their weights p [B, heads, T, N]."""
        block = torch.arange(p.shape[-1], device=p.device)
        own = (place // self.block)[:, None]
        worth = torch.unflatten(p.detach(), 1, (self.kv_heads, -1)).sum(2).float()
        forced = (block == 0) | (own - block == 1) | (own == block)
        worth = worth + forced * (2.0 + self.heads) + (own == block) * self.heads
        worth = worth.masked_fill(block > own, -1.0)
        best = worth.topk(min(self.top, p.shape[-1]), dim=-1).indices
        picked = torch.zeros_like(worth, dtype=torch.bool).scatter(-1, best, True)
        return picked & (block <= own)

    def branches(
        self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, place: Tensor, real: Tensor | None
    ) -> Tensor:
        k_mean, count = block_means(k, self.block, real)
        v_mean, _ = block_means(v, self.block, real)
        block = torch.arange(k_mean.shape[2], device=x.device)
        ended = (block + 1) * self.block <= place[:, None] + 1
        p = masked_softmax(
            q @ self.every_head(k_mean).mT * self.scale, ended & (count > 0)[:, None, None]
        )
        blocks = p @ self.every_head(v_mean)
        picked = self.every_head(self.chosen(p, place))
        chosen, window = self.tokens(q, k, v, place, picked, real)
        gates = split_heads(self.gate(x).sigmoid(), 3 * self.heads).chunk(3, 1)
        return self.merge(gates[0] * blocks + gates[1] * chosen + gates[2] * window)

    def tokens(
        self, q: Tensor, k: Tensor, v: Tensor, place: Tensor, picked: Tensor, real: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The mixed values of the chosen blocks, `picked` [B, heads, T, N], and of the window."""
        t = k.shape[2]
        if q.shape[2] == t and on_triton(q, k, v):
            blocks = sparse_blocks(picked, 1, self.block, t, causal=True)
            window = SparsePattern(self.window - 1, 0)
            return self.walk(q, k, v, blocks, real), self.walk(q, k, v, window, real)
        gap = place[:, None] - torch.arange(t, device=q.device)
        seen = gap >= 0 if real is None else (gap >= 0) & real[:, None, None, :]
        scores, v = self.scores(q, k, gap), self.every_head(v)
        picked = picked.repeat_interleave(self.block, -1)[..., :t]
        return (
            masked_softmax(scores, seen & picked) @ v,
            masked_softmax(scores, seen & (gap < self.window)) @ v,
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        place = torch.arange(x.shape[1], device=x.device)
        return self.branches(x, *self.project(x, x, place), place, mask)

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        keys, values, place = state
        q, k, v = self.project(x, x, place)
        keys, values = keys.index_copy(2, place, k), values.index_copy(2, place, v)
        return self.branches(x, q, keys, values, place, None), (keys, values, place + 1)


def _shape(x: TensorType, heads: int, kv_heads: int | None, pos: str, **_: object) -> TensorType:
    attention_shape(x, heads, pos)
    if kv_heads is not None and heads % kv_heads:
        raise Mismatch(f"kv_heads={kv_heads} does not divide heads={heads}", param="kv_heads")
    return x


def _cost(x: TensorType, heads: int, kv_heads: int | None, block: int, **_: object) -> Cost:
    t, d = x.length, x.dim
    pair, count = 2 * (kv_heads or heads) * (d // heads), -(-t // block)
    params = 2 * d * d + d * pair + 3 * d * heads
    flops = 4 * t * d * d + 2 * t * d * pair + 6 * t * d * heads
    flops += 6 * t * t * d + 4 * t * count * d
    kept = 16 * t * d + 4 * heads * t * (3 * t + count)
    return Cost(params, flops, kept, 4 * t * pair + 8)


OP = Op(
    name="nsa_attn",
    module=NativeSparseAttention,
    params={
        "heads": Int(1, 64),
        "kv_heads": Int(1, 64, default=None, none=True),
        "block": Int(1, 4096, log=True, default=64),
        "top": Int(1, 1024, default=16),
        "window": Int(1, 65536, log=True, default=512),
        "pos": Word(("none", "rope"), default="none"),
    },
    shape=_shape,
    cost=_cost,
    causal=True,
    mask="use",
    state=True,
    uses=(*PATTERN_ENGINE, block_means),
    paper="arXiv:2502.11089",
)
