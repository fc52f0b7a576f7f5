"""Positions inside attention: rotary angles and ALiBi slopes.

    rotary: pair (x_c, x_{c + K/2}) turned by the angle t 10000^(-2c/K)     (half-split layout)
    ALiBi:  slope_h = 2^(-8h/H), h = 1..H; where H is no power of two, those of the power P below,
            then every second slope of 2P

Papers: Su et al. 2021, arXiv:2104.09864; Press et al. 2022, arXiv:2108.12409.
"""

import math

import torch
from torch import Tensor


def rotary(x: Tensor, position: Tensor) -> Tensor:
    """Turn `x` [..., T, K] by its positions [T]; K is even."""
    half = x.shape[-1] // 2
    wide = torch.promote_types(x.dtype, torch.float32)
    channel = torch.arange(half, device=x.device, dtype=wide)
    angle = position.to(wide)[:, None] * torch.exp(channel * (-math.log(10000.0) / half))
    cos, sin = angle.cos(), angle.sin()
    a, b = x.to(wide).chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


def alibi_slopes(heads: int) -> Tensor:
    """One positive slope a head, [H]."""
    power = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (heads - power), 2)]
    return torch.tensor(slopes)
