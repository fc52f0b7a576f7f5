"""Routing attention: queries and keys meet inside the clusters of an online k-means.

    q, k <- LN(q), LN(k) without scale and shift;   mu [heads, C, K] the centroids
    cluster c holds the w queries (keys) of the largest q . mu_c (k . mu_c)
    o_c = softmax(q_c k_c^T / sqrt(K)) v_c,   o_t = mean of o_c over the clusters that hold t, or 0
    aux = beta sum over q and k of mean |x - mu_a(x)|^2, mu held;   a(x) = argmax_c x . mu_c
    n_c <- d n_c + (1-d) |{x: a(x) = c}|,   m_c <- d m_c + (1-d) sum x,   mu_c = m_c / n_c

The centroids move after the step, in `update`. Not causal: which tokens share a cluster depends on
all of them (the flag `ordered` keeps values of later tokens out, not their influence on the
choice). Shapes: x [B, T, D] -> [B, T, D], K = D / heads; C = `clusters`, w = `window`, or ceil(T /
C); with `share` k = q. n is smoothed by (n_c + e) / (N + C e) N, e = 1e-5. The mean divides by the
exact count, not by count + 0.01. All heads route; local heads are an op of their own. Mask: padding
is never chosen and counts neither in aux nor in the centroids. Cost: 4 D^2 parameters (share: 3
D^2); 2 T D^2 for each, 4 T C D for the scores and 4 T C D for a(x) (half if shared), 4 C w^2 D
FLOPs. Paper: Roy et al. 2021, "Routing Transformer", arXiv:2003.05997, section 4; centroids as in
the released code (counted, bias-corrected), not the half-and-half average of the text.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Float, Int
from ops.attention.engine import masked_softmax, split_heads
from ops.spec import Cost, Op, TensorType, need, need_divides


class RoutingAttention(nn.Module):
    means: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(
        self,
        dim: int,
        heads: int,
        clusters: int,
        window: int | None,
        share: bool,
        ordered: bool,
        decay: float,
        beta: float,
    ) -> None:
        super().__init__()
        self.heads, self.clusters, self.window = heads, clusters, window
        self.share, self.ordered, self.decay, self.beta = share, ordered, decay, beta
        self.project = nn.Linear(dim, (2 if share else 3) * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        width = dim // heads
        start = F.layer_norm(torch.randn(heads, clusters, width), (width,))
        self.register_buffer("means", start)
        self.register_buffer("counts", torch.zeros(heads, clusters))
        self.register_buffer("sums", torch.zeros(heads, clusters, width))

    def members(self, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """The w best tokens of each cluster in order, [B, heads, C, w], and which are tokens."""
        scores = (x @ self.means.to(x.dtype).mT).masked_fill(~real[:, None, :, None], float("-inf"))
        size = min(self.window or -(-x.shape[2] // self.clusters), x.shape[2])
        index = scores.mT.topk(size, dim=-1).indices.sort(-1).values
        held = real[:, None, None].expand(*index.shape[:3], -1).gather(-1, index)
        return index, held

    def learn(self, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The commitment of q or k, and the counts and sums of each centroid's tokens."""
        means = self.means.to(x.dtype)
        nearest = (x @ means.mT).argmax(-1)
        one = F.one_hot(nearest, self.clusters).to(x.dtype) * real[:, None, :, None]
        mine = means.expand(x.shape[0], -1, -1, -1).gather(
            2, nearest[..., None].expand(-1, -1, -1, x.shape[-1])
        )
        error = (x - mine).square() * real[:, None, :, None]
        loss = error.sum() / (real.sum() * x.shape[1] * x.shape[3]).clamp_min(1)
        total = torch.einsum("bhtc,bhtk->hck", one.detach(), x.detach())
        return loss, one.detach().sum((0, 2)), total

    def forward(
        self, x: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        real = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
        parts = [
            split_heads(z, self.heads) for z in self.project(x).chunk(2 + (not self.share), -1)
        ]
        width = parts[0].shape[-1]
        q, v = F.layer_norm(parts[0], (width,)), parts[-1]
        k = q if self.share else F.layer_norm(parts[1], (width,))
        rows, row_held = self.members(q, real)
        columns, held = (rows, row_held) if self.share else self.members(k, real)

        def take(z: Tensor, index: Tensor) -> Tensor:
            flat = index.flatten(2)[..., None].expand(-1, -1, -1, width)
            return z.gather(2, flat).view(*index.shape, width)

        scores = take(q, rows) @ take(k, columns).mT * width**-0.5
        seen = held[..., None, :]
        if self.ordered:
            seen = seen & (rows[..., None] >= columns[..., None, :])
        inner = masked_softmax(scores, seen) @ take(v, columns) * row_held[..., None]
        flat = rows.flatten(2)
        total = torch.zeros_like(v).scatter_add(
            2, flat[..., None].expand(-1, -1, -1, width), inner.flatten(2, 3)
        )
        count = torch.zeros_like(v[..., 0]).scatter_add(2, flat, row_held.flatten(2).to(v.dtype))
        o = total / count.clamp_min(1)[..., None]
        loss, counts, sums = self.learn(q, real)
        if self.share:
            loss = 2 * loss
        else:
            more, again, further = self.learn(k, real)
            loss, counts, sums = loss + more, counts + again, sums + further
        y: Tensor = self.out(o.transpose(1, 2).flatten(2))
        return y, self.beta * loss, (counts, sums)

    @torch.no_grad()
    def update(self, stats: tuple[Tensor, Tensor]) -> None:
        """Move the centroids by the tokens of one step."""
        counts, sums = stats
        self.counts.lerp_(counts.to(self.counts.dtype), 1 - self.decay)
        self.sums.lerp_(sums.to(self.sums.dtype), 1 - self.decay)
        total = self.counts.sum(-1, keepdim=True)
        smooth = (self.counts + 1e-5) / (total + self.clusters * 1e-5) * total
        moved = self.sums / smooth.clamp_min(1e-12)[..., None]
        self.means.copy_(torch.where(self.counts[..., None] > 0, moved, self.means))


def _shape(x: TensorType, heads: int, **_: object) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    return x


def _cost(
    x: TensorType, heads: int, clusters: int, window: int | None, share: bool, **_: object
) -> Cost:
    t, d = x.length, x.dim
    size = min(window or -(-t // clusters), t)
    sides = 1 if share else 2
    params = (4 - share) * d * d
    flops = 2 * t * params + 3 * sides * 2 * t * clusters * d + 4 * clusters * size**2 * d
    kept = 4 * (6 * t * d + clusters * heads * (2 * t + 2 * size**2) + 4 * clusters * size * d)
    return Cost(params, flops, kept)


OP = Op(
    name="routing_attn",
    module=RoutingAttention,
    params={
        "heads": Int(1, 64),
        "clusters": Int(1, 4096, log=True),
        "window": Int(1, 65536, log=True, default=None, none=True),
        "share": Flag(),
        "ordered": Flag(),
        "decay": Float(0.0, 1.0, default=0.999),
        "beta": Float(0.0, 10.0, default=1e-4),
    },
    shape=_shape,
    cost=_cost,
    causal=False,
    returns=("y", "aux", "stats"),
    mask="use",
    uses=(split_heads, masked_softmax),
    paper="arXiv:2003.05997",
)
