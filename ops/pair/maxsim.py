"""MaxSim, late interaction: every query token takes its best document token, the bests are summed.

    y = sum_i max_j sim(q_i, d_j),   sim: dot q . d | cos | l2 -|q - d|^2

Not causal: two sequences become one score. Shapes: q [B, L, D], d [B, R, D] -> scores [B, 1].
Mask: padded document tokens never win; padded query tokens add nothing; without a real document
token the score is 0. No parameters; 2 L R D FLOPs.
Paper: Khattab & Zaharia 2020, "ColBERT", arXiv:2004.12832, eq. 3 (where queries are filled up with
mask tokens that take part: give those as real tokens).
"""

import torch
from torch import Tensor, nn

from grammar.domain import Word
from ops.pair.match import SCALARS, pair_scores, real_tokens
from ops.spec import Cost, Mismatch, Op, TensorType, need, scores


class MaxSim(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(
        self, q: Tensor, d: Tensor, mask: Tensor | tuple[Tensor | None, ...] | None = None
    ) -> Tensor:
        table = pair_scores(q, d, self.kind)
        if mask is None:
            return table.amax(-1).sum(-1, keepdim=True)
        real = real_tokens(d, mask, 1)
        low = table.masked_fill(~real[:, None], torch.finfo(table.dtype).min)
        best = low.amax(-1) * (real_tokens(q, mask, 0) & real.any(1, keepdim=True))
        return best.sum(-1, keepdim=True)


def _shape(*xs: TensorType, kind: str) -> TensorType:
    if len(xs) != 2:
        raise Mismatch(f"needs two values, got {len(xs)}", hint="write maxsim(a, b)")
    for x in xs:
        need(x, "seq")
    if xs[0].dim != xs[1].dim:
        raise Mismatch(f"{xs[0]} and {xs[1]} differ in width", hint="both need one width")
    return scores(1)


OP = Op(
    name="maxsim",
    module=MaxSim,
    variadic=True,
    params={"kind": Word(SCALARS, default="dot")},
    shape=_shape,
    init=lambda *_, kind: {"kind": kind},
    cost=lambda q, d, kind: Cost(flops=2 * q.length * d.length * q.dim),
    causal=False,
    mask="end",
    uses=(pair_scores, real_tokens),
    paper="arXiv:2004.12832",
)
