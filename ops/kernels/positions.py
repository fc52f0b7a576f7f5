"""Positions inside attention: rotary angles and ALiBi slopes.

    rotary: pair (x_c, x_{c + K/2}) turned by the angle t 10000^(-2c/K)     (half-split layout)
    ALiBi:  slope_h = 2^(-8h/H), h = 1..H; where H is no power of two, those of the power P below,
            then every second slope of 2P

The functions here are the specification; on a GPU `rotary` and `meeting` are one kernel each way
(`rows_turn_kernel.py`).
Papers: Su et al. 2021, arXiv:2104.09864; Press et al. 2022, arXiv:2108.12409.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.kernels.dispatch import on_triton
from ops.kernels.rows_turn_launch import TURN_KERNELS, MeetRows, TurnRows


def rotary(x: Tensor, position: Tensor) -> Tensor:
    """Turn `x` [..., T, K] by its positions [T]; K is even."""
    if on_triton(x) and x.dim() == 4 and x.numel():
        y: Tensor = TurnRows.apply(x, position)  # type: ignore[no-untyped-call]  # torch gives none
        return y
    half = x.shape[-1] // 2
    wide = torch.promote_types(x.dtype, torch.float32)
    channel = torch.arange(half, device=x.device, dtype=wide)
    angle = position.to(wide)[:, None] * torch.exp(channel * (-math.log(10000.0) / half))
    cos, sin = angle.cos(), angle.sin()
    a, b = x.to(wide).chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


def meeting(
    q: Tensor,
    kv: Tensor,
    place: Tensor,
    width: int,
    *,
    gains: tuple[Tensor, Tensor] | None = None,
    turn: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """q [B, H, T, K], k and v [B, G, S, K] as they meet, from q [B, T, H K] and kv [B, S, 2 G K].

    `gains` [K]: RMS norm of every head of q and of k; `turn`: then rotary, both at `place` [T].
    """
    plain = gains is None and not turn
    if not plain and width % 2 == 0 and on_triton(q, kv, *(gains or ())) and q.dtype == kv.dtype:
        both = gains or (None, None)
        out = MeetRows.apply(q, kv, place, *both, width, 1e-6, turn)  # type: ignore[no-untyped-call]  # torch gives no type
        return out[0], out[1], out[2]
    q, k, v = (torch.unflatten(z, -1, (-1, width)).transpose(1, 2) for z in (q, *kv.chunk(2, -1)))
    if gains is not None:
        q = F.rms_norm(q, (width,), None, 1e-6) * gains[0].to(q.dtype)
        k = F.rms_norm(k, (width,), None, 1e-6) * gains[1].to(k.dtype)
    return (rotary(q, place), rotary(k, place), v) if turn else (q, k, v)


def alibi_slopes(heads: int) -> Tensor:
    """One positive slope a head, [H]."""
    power = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * h / power) for h in range(1, power + 1)]
    slopes += [2 ** (-4 * h / power) for h in range(1, 2 * (heads - power), 2)]
    return torch.tensor(slopes)


ROTARY: tuple[Callable[..., Any], ...] = (on_triton, *TURN_KERNELS, rotary)
MEETING: tuple[Callable[..., Any], ...] = (*ROTARY, meeting)
