"""What the relative and convolved attentions share: scores by lag, and a short causal convolution.

    table:    e_ts = (q_t + u) . k_s + q_t . R_m + S_m,              m = t - s
    sinusoid: e_ts = (q_t + u) . k_s + (q_t + w) . (W_R r_m),        r_m = [sin(m f), cos(m f)],
              f_c = 10000^(-2c/D)

both divided by sqrt(K). R, S, u, w start at 0 and are per head. No roll of a shifted matrix: every
pair takes its lag by index, so that nothing wraps round.

Papers: Dai et al. 2019, "Transformer-XL", arXiv:1901.02860, section 3.3 and appendix B (sinusoid);
the table form replaces its sinusoids by learned rows.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.spec import Mismatch, TensorType


class LagScores(nn.Module):
    def __init__(self, heads: int, width: int, reach: int, causal: bool, form: str) -> None:
        super().__init__()
        self.causal, self.reach = causal, reach
        rows, dim = reach if causal else 2 * reach - 1, heads * width
        self.content = nn.Parameter(torch.zeros(heads, width))
        table = form == "table"
        self.keys = nn.Parameter(torch.zeros(heads, rows, width)) if table else None
        self.offsets = nn.Parameter(torch.zeros(heads, rows)) if table else None
        self.place = None if table else nn.Parameter(torch.zeros(heads, width))
        self.turn = None if table else nn.Linear(dim, dim, bias=False)

    def waves(self, lags: Tensor, like: Tensor) -> Tensor:
        """W_R r_m, [heads, L, K]."""
        assert self.turn is not None
        dim = self.turn.in_features
        wide = torch.promote_types(like.dtype, torch.float32)
        even = torch.arange(0, dim, 2, device=like.device, dtype=wide)
        angle = lags.to(wide)[:, None] * torch.exp(even * (-math.log(10000.0) / dim))
        r = torch.cat([angle.sin(), angle.cos()], dim=-1)[:, :dim].to(like.dtype)
        return torch.unflatten(self.turn(r), -1, self.content.shape).transpose(0, 1)

    def forward(self, q: Tensor, k: Tensor, gap: Tensor) -> Tensor:
        """e [B, heads, T, S] without 1/sqrt(K); gap [T, S], none above S - 1."""
        count = k.shape[2]
        least = 0 if self.causal else 1 - count
        index = (gap - least).clamp_min(0)
        first = 0 if self.causal else self.reach - count
        last = first + count - least
        scores = (q + self.content[:, None]) @ k.mT
        if self.keys is not None and self.offsets is not None:
            by_lag = q @ self.keys[:, first:last].mT
            scores = scores + self.offsets[:, first:last][:, index]
        else:
            assert self.place is not None
            lags = torch.arange(least, count, device=q.device)
            by_lag = (q + self.place[:, None]) @ self.waves(lags, q).mT
        return scores + by_lag.gather(-1, index.expand(*by_lag.shape[:2], -1, -1))


class HeadConv(nn.Module):
    """Depthwise along tokens: z_t = b + sum_r w_r x_{t-r}; centred if not causal."""

    def __init__(self, channels: int, kernel: int, causal: bool) -> None:
        super().__init__()
        self.before = kernel - 1 if causal else (kernel - 1) // 2
        self.after = kernel - 1 - self.before
        self.weight = nn.Parameter(torch.full((channels, 1, kernel), 0.5 / kernel))
        self.bias = nn.Parameter(torch.zeros(channels))
        with torch.no_grad():
            self.weight[:, :, self.before] = 0.5 if kernel > 1 else 1.0

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x.mT, (self.before, self.after))
        return F.conv1d(padded, self.weight, self.bias, groups=x.shape[-1]).mT

    def step(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """One token [B, 1, C] after the tail [B, kernel - 1, C]."""
        window = torch.cat([tail, x], dim=1)
        y = F.conv1d(window.mT, self.weight, self.bias, groups=x.shape[-1]).mT
        return y, window[:, 1:]


def lag_costs(x: TensorType, heads: int, causal: bool, reach: int, form: str) -> tuple[int, int]:
    """Parameters and FLOPs that `LagScores` adds. Raises: Mismatch for a length beyond `reach`."""
    t, d = x.length, x.dim
    if form == "table" and t > reach:
        raise Mismatch(f"reach={reach} is shorter than the sequence of {t}", param="reach")
    lags = t if causal else 2 * t - 1
    rows = reach if causal else 2 * reach - 1
    if form == "table":
        return d + rows * (d + heads), 2 * t * lags * d
    return 2 * d + d * d, 2 * t * lags * d + 2 * lags * d * d


def conv_costs(x: TensorType, kernel: int) -> tuple[int, int]:
    """Parameters and FLOPs of a `HeadConv` over queries, keys and values."""
    return 3 * x.dim * (kernel + 1), 6 * x.length * x.dim * kernel
