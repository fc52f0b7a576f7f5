"""Match: every token of one sequence against every token of another, as an image.

    dot  q_i . d_j      cos  the same of vectors of length 1      l2  -|q_i - d_j|^2
    exact  1 where q_i = d_j (ids)
    mul  q_i * d_j      plus  q_i + d_j      minus  q_i - d_j     concat  [q_i; d_j]

Shapes: q [B, L, D], d [B, R, D] (`exact`: tokens) -> image [B, C, L, R], C = 1, D for mul, plus and
minus, 2 D for concat. Where q or d may be padded, pairs with padding are 0 and one more channel,
the last, is 1 at real pairs: `kernel_pool`, `kmax` and `histogram` leave the others out by it.
Not causal. Mask: ends here, in that channel. No parameters; 2 L R D FLOPs for dot, cos and l2.
Sources: Pang et al. 2016, arXiv:1602.06359, eq. 2-4 (dot, cos, exact); Hu et al. 2014,
arXiv:1503.03244 (concat); Guo et al. 2019, arXiv:1903.06902 (survey).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Word
from ops.spec import Cost, Mismatch, Op, TensorType, image, need

SCALARS = ("dot", "cos", "l2")


def pair_scores(q: Tensor, d: Tensor, kind: str) -> Tensor:
    """dot, cos or l2 of all pairs, [B, L, R]."""
    if kind == "cos":
        q, d = F.normalize(q, dim=-1), F.normalize(d, dim=-1)
    scores = q @ d.mT
    if kind == "l2":
        scores = 2 * scores - q.square().sum(-1)[..., None] - d.square().sum(-1)[:, None]
    return scores


def real_tokens(x: Tensor, mask: Tensor | tuple[Tensor | None, ...], index: int) -> Tensor:
    """The mask of one of several values, all True where it has none, [B, T]."""
    own = mask[index] if isinstance(mask, tuple) else mask
    return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if own is None else own


class Match(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def pairs(self, q: Tensor, d: Tensor) -> Tensor:
        if self.kind == "exact":
            return (q[:, :, None] == d[:, None])[:, None].float()
        if self.kind in ("dot", "cos", "l2"):
            return pair_scores(q, d, self.kind)[:, None]
        q, d = q.mT[..., None], d.mT[:, :, None]
        if self.kind == "mul":
            return q * d
        if self.kind == "concat":
            size = (*q.shape[:3], d.shape[3])
            return torch.cat([q.expand(size), d.expand(size)], 1)
        return q + d if self.kind == "plus" else q - d

    def forward(
        self, q: Tensor, d: Tensor, mask: Tensor | tuple[Tensor | None, ...] | None = None
    ) -> Tensor:
        y = self.pairs(q, d)
        if mask is None:
            return y
        real = real_tokens(q, mask, 0)[:, :, None] & real_tokens(d, mask, 1)[:, None]
        return torch.cat([y * real[:, None], real[:, None].to(y.dtype)], 1)


def _shape(*xs: TensorType, kind: str) -> TensorType:
    if len(xs) != 2:
        raise Mismatch(f"needs two values, got {len(xs)}", hint="write match(a, b)")
    q, d = xs
    for x in xs:
        need(x, "tokens" if kind == "exact" else "seq")
    padded = q.may_pad or d.may_pad
    if kind == "exact":
        return image(1 + padded, q.length, d.length)
    if q.dim != d.dim:
        raise Mismatch(f"{q} and {d} differ in width", hint="both values need one width")
    channels = {"mul": q.dim, "plus": q.dim, "minus": q.dim, "concat": 2 * q.dim}.get(kind, 1)
    return image(channels + padded, q.length, d.length)


def _cost(q: TensorType, d: TensorType, kind: str) -> Cost:
    if kind not in SCALARS:
        return Cost()
    kept = 4 * (q.length + d.length) * q.dim * (kind == "cos")
    return Cost(flops=2 * q.length * d.length * q.dim, activation=kept)


OP = Op(
    name="match",
    module=Match,
    variadic=True,
    params={"kind": Word((*SCALARS, "exact", "mul", "plus", "minus", "concat"), default="cos")},
    shape=_shape,
    init=lambda *_, kind: {"kind": kind},
    cost=_cost,
    causal=False,
    mask="end",
    uses=(pair_scores, real_tokens),
    paper="arXiv:1602.06359",
)
