"""BigBird attention: blocks see global blocks, their neighbours and a few random blocks.

    block u sees block v:  |u - v| <= 1  or  v < g  or  u < g  or  v in R(u)

Causal with the flag `causal` (then also s <= t, and R(u) lies in the past), else not. Shapes: x [B,
T, D] -> [B, T, D], K = D / heads; blocks of `block` tokens, g = `global_blocks` first ones. R(u):
the `random` blocks, neither global nor neighbours, whose hash of (seed, u, v) is highest; so R does
not depend on the data, and in the causal form not on the length. Mask: keys at padding are left
out. State (causal only): keys and values of all tokens so far, and the position. Cost: 4 D^2
parameters; 8 T D^2 + 4 T^2 D FLOPs (all scores are computed). Paper: Zaheer et al. 2020, "Big
Bird", arXiv:2007.14062, section 2 (ITC). Differs: neighbours do not wrap round at the borders; a
causal form is not in the paper.
"""

import torch
from torch import Tensor

from grammar.domain import Int
from ops.attention.engine import attention_cost, attention_shape, head_params
from ops.attention.pattern import PATTERN_ENGINE, PatternAttention
from ops.kernels.sparse import SparsePattern, sparse_blocks
from ops.spec import Op


def block_hash(u: Tensor, v: Tensor, seed: int) -> Tensor:
    """A number for each pair of blocks, all of one u distinct (below 2^20 blocks)."""
    mixed = ((u * 73_856_093) ^ (v * 19_349_663) ^ seed) % 2**31
    for _ in range(2):
        mixed = (mixed ^ (mixed >> 15)) * 739_982_445 % 2**31
    return mixed % 2**20 * 2**20 + v


class BigBirdAttention(PatternAttention):
    def __init__(
        self,
        dim: int,
        heads: int,
        causal: bool = False,
        pos: str = "none",
        block: int = 64,
        global_blocks: int = 2,
        random: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, heads, causal, pos)
        self.block, self.first, self.random, self.seed = block, global_blocks, random, seed

    def picked(self, u: Tensor, count: int) -> Tensor:
        """R(u) as bool [len(u), count], for block indices u [N, 1]."""
        v = torch.arange(count, device=u.device)[None]
        free = (v >= self.first) & (u >= self.first)
        free = free & ((v < u - 1) if self.causal else ((u - v).abs() > 1))
        rank = torch.where(free, block_hash(u, v, self.seed), -1)
        if self.random >= count:
            return free
        least = rank.topk(self.random + 1, dim=-1).values[:, -1:]
        return free & (rank > least)

    def blocks(self, u: Tensor, v: Tensor, count: int) -> Tensor:
        """Which of the blocks v [1, M] the blocks u [N, 1] see."""
        near = ((u - v).abs() <= 1) | (v < self.first) | (u < self.first)
        return near | self.picked(u, count)[:, v[0]]

    def allowed(self, query: Tensor, key: Tensor) -> Tensor:
        count = -(-key.shape[-1] // self.block)
        seen = self.blocks(query // self.block, key // self.block, count)
        return seen & (query >= key) if self.causal else seen

    def pattern(self, place: Tensor) -> SparsePattern:
        length = place.shape[0]
        block = torch.arange(-(-length // self.block), device=place.device)
        table = self.blocks(block[:, None], block[None], block.shape[0])[None, None]
        return sparse_blocks(table, self.block, self.block, length, causal=self.causal)


OP = Op(
    name="bigbird_attn",
    module=BigBirdAttention,
    params={
        **head_params(),
        "block": Int(1, 4096, log=True, default=64),
        "global_blocks": Int(0, 64, default=2),
        "random": Int(0, 64, default=3),
    },
    shape=lambda x, heads, pos, **_: attention_shape(x, heads, pos),
    cost=lambda x, heads, causal, **_: attention_cost(x, heads, causal),
    causal=lambda x, causal, **_: causal,
    needs=("seed",),
    mask="use",
    state=True,
    uses=(*PATTERN_ENGINE, block_hash),
    paper="arXiv:2007.14062",
)
