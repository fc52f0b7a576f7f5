"""MoBA, mixture of block attention: each query picks a few earlier blocks by their mean key.

    g_tc = q_t . mean_{s in c} k_s over blocks c before t's own
    C_t = t's own block and the `top` - 1 best
    y_t = W_o concat_h sum_s softmax_s(q_t . k_s / sqrt(K)) v_s,   block(s) in C_t, s <= t

Causal: the choice, too, sees earlier tokens only. Shapes: x [B, T, D] -> [B, T, D], K = D / heads;
blocks of `block` tokens; the choice has no gradient, is made per head, in fp32, after rotary
positions. Mask: keys at padding are left out, also of the means; blocks of padding only are not
chosen. State: keys and values of all tokens so far, and the position. Cost: 4 D^2 parameters; 8 T
D^2 + 4 T^2 D + 2 T n D FLOPs, n = ceil(T / block) (all scores are computed). Paper: Lu et al. 2025,
"MoBA", arXiv:2502.13189, eq. 1-6.
"""

import torch
from torch import Tensor

from grammar.domain import Int, Word
from ops.attention.engine import attention_cost, attention_shape
from ops.attention.pattern import PATTERN_ENGINE, PatternAttention
from ops.kernels.dispatch import on_triton
from ops.kernels.sparse import sparse_blocks
from ops.spec import Cost, Op, TensorType


def block_means(k: Tensor, block: int, real: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean keys [B, H, N, K] of blocks, and the tokens in each, [B or 1, N]."""
    b, h, s, width = k.shape
    pad = -s % block
    token = k.new_ones(1, s) if real is None else real.to(k.dtype)
    rows = torch.nn.functional.pad(k * token[:, None, :, None], (0, 0, 0, pad))
    count = torch.nn.functional.pad(token, (0, pad)).view(token.shape[0], -1, block).sum(-1)
    total = rows.view(b, h, -1, block, width).sum(3)
    return total / count.clamp_min(1)[:, None, :, None], count


class BlockMixtureAttention(PatternAttention):
    def __init__(
        self, dim: int, heads: int, block: int = 64, top: int = 3, pos: str = "none"
    ) -> None:
        super().__init__(dim, heads, True, pos)
        self.block, self.top = block, top

    def picked(self, q: Tensor, k: Tensor, place: Tensor, real: Tensor | None) -> Tensor:
        """Which blocks each query picks, [B, H, T, N]."""
        means, count = block_means(k, self.block, real)
        gate = (q @ means.mT).float()
        block = torch.arange(means.shape[2], device=q.device)
        own = (place // self.block)[:, None]
        closed = (block >= own) | (count == 0)[:, None, None]
        gate = gate.masked_fill(closed, float("-inf")).masked_fill(block == own, float("inf"))
        best = gate.topk(min(self.top, means.shape[2]), dim=-1).indices
        picked = torch.zeros_like(gate, dtype=torch.bool).scatter(-1, best, True)
        return picked & (gate > float("-inf"))

    def chosen(self, q: Tensor, k: Tensor, place: Tensor, real: Tensor | None) -> Tensor:
        """Which keys are in the blocks that each query picks, [B, H, T, S]."""
        picked = self.picked(q, k, place, real)
        return picked.repeat_interleave(self.block, -1)[..., : k.shape[2]]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        place = torch.arange(x.shape[1], device=x.device)
        q, k, v = self.project(x, x, place)
        if on_triton(q, k, v):
            table = self.picked(q, k, place, mask)
            pattern = sparse_blocks(table, 1, self.block, x.shape[1], causal=True)
            return self.merge(self.walk(q, k, v, pattern, mask))
        gap = place[:, None] - place
        seen = (gap >= 0) & self.chosen(q, k, place, mask)
        if mask is not None:
            seen = seen & mask[:, None, None, :]
        return self.merge(self.weigh(self.scores(q, k, gap), seen) @ v)

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        keys, values, place = state
        q, k, v = self.project(x, x, place)
        keys, values = keys.index_copy(2, place, k), values.index_copy(2, place, v)
        gap = place[:, None] - torch.arange(keys.shape[2], device=x.device)
        seen = (gap >= 0) & self.chosen(q, keys, place, None)
        weights = self.weigh(self.scores(q, keys, gap), seen)
        return self.merge(weights @ values), (keys, values, place + 1)


def _cost(x: TensorType, heads: int, block: int, top: int, pos: str) -> Cost:
    return attention_cost(x, heads, True, flops=2 * x.length * -(-x.length // block) * x.dim)


OP = Op(
    name="moba_attn",
    module=BlockMixtureAttention,
    params={
        "heads": Int(1, 64),
        "block": Int(1, 65536, log=True, default=64),
        "top": Int(1, 4096, default=3),
        "pos": Word(("none", "rope"), default="none"),
    },
    shape=lambda x, heads, block, top, pos: attention_shape(x, heads, pos),
    cost=_cost,
    causal=True,
    mask="use",
    state=True,
    uses=(*PATTERN_ENGINE, block_means),
    paper="arXiv:2502.13189",
)
