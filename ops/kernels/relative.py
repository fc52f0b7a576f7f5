"""Further positions inside attention: T5 buckets, the scales of xPos, the cosines of LRPE.

    T5:   bias b[h, bucket(t - s)] from a learned table of 32 buckets (16 a sign, if both occur);
          half of them are exact distances, the others log-spaced up to 128
    xPos: rotary pair c of q at t times z_c^(t/512), of k at s times z_c^(-s/512),
          z_c = (2c/K + 0.4) / 1.4: the logit decays with t - s
    LRPE: q, k -> [z cos(t theta), z sin(t theta)], twice the width; the logit is
          sum_c q_c k_c cos((t - s) theta_c)

Papers: Raffel et al. 2020, arXiv:1910.10683, section 2.1; Sun et al. 2022, arXiv:2212.10554, eq. 12
and algorithm 1; Qin et al. 2023, arXiv:2307.14995, section 3.1 (cosine form).
"""

import math

import torch
from torch import Tensor


def t5_bucket(gap: Tensor, causal: bool) -> Tensor:
    """Bucket 0..31 of each gap = query place - key place; a later key counts as 0 if causal."""
    half = 16 if causal else 8
    distance = gap.clamp_min(0) if causal else gap.abs()
    steps = torch.log(distance.clamp_min(1) / half) / math.log(128 / half) * half
    far = (half + steps.long()).clamp_max(2 * half - 1)
    bucket = torch.where(distance < half, distance, far)
    return bucket if causal else bucket + 16 * (gap < 0)


def by_gap(values: Tensor, rows: int) -> Tensor:
    """[H, rows, columns] whose entry (t, s) is the value of the gap t - s.

    values [H, rows + columns - 1], of the gaps rows - 1 down to 1 - columns. Row t is `values` from
    place rows - 1 - t on: one row, repeated with a period one longer than the rows are read. The
    gradient is a sum over rows, where an index a pair would sort T^2 of them.
    """
    width = values.shape[-1]
    filled = torch.cat([values, values[:, :1]], dim=-1)[:, None].expand(-1, rows, -1)
    shifted = filled.flatten(1)[:, : rows * width].view(len(values), rows, width)
    return shifted[..., rows - 1 :]


def xpos_scale(place: Tensor, width: int, sign: int, like: Tensor) -> Tensor:
    """Factors [T, K] of queries (`sign` 1) or keys (-1), for rotary pairs (c, c + K/2)."""
    wide = torch.promote_types(like.dtype, torch.float32)
    pair = torch.arange(0, width, 2, device=place.device, dtype=wide)
    base = (pair / width + 0.4) / 1.4
    return (base ** (sign * place.to(wide)[:, None] / 512)).repeat(1, 2)


def lrpe(z: Tensor, place: Tensor, theta: Tensor) -> Tensor:
    """[B, H, T, K] -> [B, H, T, 2 K]; theta [H, K]."""
    wide = torch.promote_types(z.dtype, torch.float32)
    angle = place.to(wide)[:, None] * theta.to(wide)[:, None]
    return torch.cat([z * angle.cos(), z * angle.sin()], dim=-1).to(z.dtype)
