"""Sparse alternatives to softmax: entmax for any alpha in (1, 2], and sparsemax, exactly.

    entmax_alpha(z) = argmax_p  z.p + H_alpha(p),   p_j = [(alpha - 1) z_j - tau]_+^(1/(alpha-1))
    sparsemax = entmax_2:  rho = max{r: 1 + r z_(r) > sum_{i<=r} z_(i)},
                           tau = (sum_{i<=rho} z_(i) - 1) / rho

tau makes the weights sum to 1. f(tau) = sum_j [..]_+^e - 1 is convex and falls (e >= 1), so that
Newton's method from below climbs to its root; bisection first brings it near. The last step alone
is differentiated, with its slope held: by the implicit function theorem that gives the gradient
dz = g (dp - sum(g dp) / sum g), g = p^(2 - alpha), without saving the iterations.
Papers: Martins & Astudillo 2016, arXiv:1602.02068, algorithm 1; Peters et al. 2019,
arXiv:1905.05702, proposition 1 and algorithm 1; Correia et al. 2019, arXiv:1909.00015 (alpha).
"""

import torch
from torch import Tensor


def entmax_weights(scores: Tensor, seen: Tensor | None, alpha: Tensor) -> Tensor:
    """Weights over the last axis; `alpha` broadcasts to the scores. Rows that see no key are 0."""
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if seen is not None:
        wide = wide.masked_fill(~seen, torch.finfo(wide.dtype).min / 4)
    alpha = alpha.to(wide.dtype)
    z = (alpha - 1) * (wide - wide.detach().amax(-1, keepdim=True))
    power = 1 / (alpha - 1)
    with torch.no_grad():
        low = torch.full_like(z[..., :1], -1.0)
        width = torch.ones_like(low)
        for _ in range(12):
            width = width / 2
            middle = low + width
            above = (z - middle).clamp_min(0).pow(power).sum(-1, keepdim=True) >= 1
            low = torch.where(above, middle, low)
        for _ in range(8):
            base = (z - low).clamp_min(0)
            slope = torch.where(base > 0, power * base.pow(power - 1), 0.0).sum(-1, keepdim=True)
            low = low + (base.pow(power).sum(-1, keepdim=True) - 1) / slope
        base = (z - low).clamp_min(0)
        slope = torch.where(base > 0, power * base.pow(power - 1), 0.0).sum(-1, keepdim=True)
    tau = low + ((z - low).clamp_min(0).pow(power).sum(-1, keepdim=True) - 1) / slope
    weights = (z - tau).clamp_min(0).pow(power)
    weights = weights if seen is None else weights * seen
    return weights.to(scores.dtype)


def sparsemax_weights(scores: Tensor, seen: Tensor | None) -> Tensor:
    """Weights over the last axis by sorting. Rows that see no key are 0."""
    wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if seen is not None:
        wide = wide.masked_fill(~seen, torch.finfo(wide.dtype).min / 4)
    z = (wide - wide.detach().amax(-1, keepdim=True)).clamp_min(-2.0)  # below -1 no key has weight
    ordered = z.detach().sort(-1, descending=True).values
    rank = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
    count = (1 + rank * ordered > ordered.cumsum(-1)).sum(-1, keepdim=True)
    support = z.detach() >= ordered.gather(-1, count - 1)
    tau = ((z * support).sum(-1, keepdim=True) - 1) / support.sum(-1, keepdim=True)
    weights = (z - tau).clamp_min(0)
    weights = weights if seen is None else weights * seen
    return weights.to(scores.dtype)
