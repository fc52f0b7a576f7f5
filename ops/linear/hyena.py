"""Hyena: long convolutions whose filters are a function of the position, with gates between them.

    v, x_1 .. x_N = conv(u W + b) + c, causal, depthwise, `kernel` taps
    z_1 = v,   z_{n+1} = x_n * (h_n conv z_n + s_n * z_n),   y = z_{N+1} W_o + b_o
    h_n(t) = (FFN(t / L, cos f_b w, sin f_b w))_n e^{-a t / (L - 1)},   w = 2 pi t / L

N = `order`; FFN: three layers of `width` units with sin(p x), p learned, then linear without bias;
`bands` frequencies f from 1e-4 to bands - 1; a from 3.07 to 15.35 over the channels: a filter falls
to 1 % at 1.5 L (slow) or .3 L (fast). L is the length at building, the unit of time; sequences may
be of any length.
Causal. Shapes: u [B, T, D] -> [B, T, D]. Convolutions by FFT over 2 T, fp32. Mask: zeros into every
convolution at padding. State, with the length: the last T of every z_n, the filters, kernel - 1
projections; a token costs O(N T D).
Cost, G = 1 + 2 bands, F = width: (N + 1) D (D + kernel + 2) + N D (1 + F) + F (G + 2 F + 4) + D^2 +
D parameters; 2 T ((N + 2) D^2 + (N + 1) kernel D + F (G + 2 F + N D)) FLOPs, the last term once for
the batch (the transforms, 5 N T D log2 2T each, are not counted).
Paper: Poli et al. 2023, "Hyena Hierarchy", arXiv:2302.10866, definition 3.1, sections 3.2, 3.3 and
appendix D.3. Differs: filters of unit time L instead of each sequence's own length.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Int
from ops.kernels.mixing import blank
from ops.spec import Cost, Op, TensorType, need


def long_conv(z: Tensor, h: Tensor) -> Tensor:
    """sum_{s<=t} h_{t-s} z_s along the last axis: z [B, D, T], h [D, T]."""
    size = 2 * z.shape[-1]
    spectrum = torch.fft.rfft(z, n=size) * torch.fft.rfft(h, n=size)
    y: Tensor = torch.fft.irfft(spectrum, n=size)[..., : z.shape[-1]]
    return y


class HyenaFilter(nn.Module):
    """The filters [order, D, count] of the first `count` ages, in fp32 at least."""

    def __init__(self, dim: int, order: int, bands: int, width: int, length: int) -> None:
        super().__init__()
        self.order, self.bands, self.length = order, bands, length
        self.layers = nn.ModuleList(
            nn.Linear(size, width) for size in (1 + 2 * bands, width, width)
        )
        self.pitch = nn.Parameter(torch.full((width,), 14.0))
        self.last = nn.Linear(width, order * dim, bias=False)

    def forward(self, count: int) -> Tensor:
        weight = self.last.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        age = torch.arange(count, device=weight.device, dtype=wide)[:, None]
        order = torch.arange(self.bands, device=weight.device, dtype=wide)
        band = 1e-4 + order * ((self.bands - 1 - 1e-4) / max(1, self.bands - 1))
        angle = age * band * (2 * math.pi / self.length)
        time = age / max(1, self.length - 1)
        x = torch.cat([time, angle.cos(), angle.sin()], -1)
        with torch.autocast(weight.device.type, enabled=False):
            for layer in self.layers:
                x = torch.sin(self.pitch * layer(x.to(weight.dtype)))
            h = torch.unflatten(self.last(x).to(wide), -1, (self.order, -1))
        channel = torch.linspace(0, 1, h.shape[-1], device=weight.device, dtype=wide)
        rate = math.log(100) * ((1 - channel) / 1.5 + channel / 0.3)
        return (h * torch.exp(-time * rate)[:, None]).permute(1, 2, 0)


class Hyena(nn.Module):
    def __init__(
        self, dim: int, order: int, kernel: int, bands: int, width: int, length: int
    ) -> None:
        super().__init__()
        self.order, self.kernel = order, kernel
        wide = (order + 1) * dim
        self.into = nn.Linear(dim, wide)
        self.short = nn.Conv1d(wide, wide, kernel, groups=wide)
        self.filter = HyenaFilter(dim, order, bands, width, length)
        self.skip = nn.Parameter(torch.randn(order, dim, 1))
        self.out = nn.Linear(dim, dim)

    def split(self, seen: Tensor) -> tuple[Tensor, ...]:
        """v and the gates x_1 .. x_N, [B, D, T] each, in fp32, of what the short filter gives."""
        wide = torch.promote_types(seen.dtype, torch.float32)
        return seen.to(wide).chunk(self.order + 1, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        seen = F.pad(blank(self.into(x), mask).mT, (self.kernel - 1, 0))
        z, *gates = self.split(self.short(seen))
        for n, h in enumerate(self.filter(x.shape[1]).unbind(0)):
            z = z if mask is None else z * mask[:, None]
            z = gates[n] * (long_conv(z, h) + self.skip[n] * z)
        y: Tensor = self.out(z.mT.to(x.dtype))
        return y

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        weight = self.into.weight
        filters = self.filter(length).flip(-1)
        seen = filters.new_zeros(batch, *filters.shape)
        return seen, filters, weight.new_zeros(batch, self.kernel - 1, weight.shape[0])

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        seen, filters, tail = state
        recent = torch.cat([tail, self.into(x)], 1)
        z, *gates = self.split(self.short(recent.mT))
        kept = []
        for n in range(self.order):
            kept.append(torch.cat([seen[:, n, :, 1:], z], -1))
            past = (kept[-1] * filters[n]).sum(-1, keepdim=True)
            z = gates[n] * (past + self.skip[n] * z)
        return self.out(z.mT.to(x.dtype)), (torch.stack(kept, 1), filters, recent[:, 1:])


def _shape(x: TensorType, **_: int) -> TensorType:
    need(x, "seq")
    return x


def _init(x: TensorType, **params: int) -> dict[str, Any]:
    return {"dim": x.dim, "length": x.length, **params}


def _cost(x: TensorType, order: int, kernel: int, bands: int, width: int) -> Cost:
    t, d, n = x.length, x.dim, order
    inner = width * (1 + 2 * bands + 2 * width)
    params = (n + 1) * d * (d + kernel + 2) + n * d * (1 + width) + inner + 4 * width + d * d + d
    flops = 2 * t * ((n + 2) * d * d + (n + 1) * kernel * d + inner + width * n * d)
    kept = 4 * t * (d * (2 + 14 * n) + 8 * width)
    return Cost(params, flops, kept, 4 * (2 * n * t * d + (kernel - 1) * (n + 1) * d))


OP = Op(
    name="hyena",
    module=Hyena,
    params={
        "order": Int(1, 8, default=2),
        "kernel": Int(1, 64, default=3),
        "bands": Int(1, 256, log=True, default=16),
        "width": Int(1, 1024, log=True, default=64),
    },
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=True,
    mask="use",
    state=True,
    uses=(blank, long_conv, HyenaFilter),
    paper="arXiv:2302.10866",
)
