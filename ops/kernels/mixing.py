"""What linear mixers share: heads, the norm of each head, short causal convolutions, token shift.

Shapes: activations [B, T, D], heads [B, H, T, K]. Padded places hold zeros in what they pass on.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ops.kernels.dispatch import on_triton
from ops.kernels.rows import norm_dtype
from ops.kernels.rows_heads_kernel import HEAD_KERNELS, HeadRows
from ops.kernels.short_kernel import SHORT_KERNELS, ShortRows


def heads_first(x: Tensor, heads: int) -> Tensor:
    """[B, T, H K] -> [B, H, T, K]."""
    return x.reshape(*x.shape[:-1], heads, -1).transpose(1, 2)


def heads_last(x: Tensor) -> Tensor:
    """[B, H, T, K] -> [B, T, H K]."""
    return x.transpose(1, 2).flatten(2)


def head_norm(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean x^2 + eps) over the last axis; the mean in fp32 at least."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def unit_heads(x: Tensor, eps: float, scale: float) -> Tensor:
    """`head_norm` times scale, of x [B, H, T, K]: queries and keys of length scale sqrt(K)."""
    if on_triton(x) and x.numel() and x.shape[1] * x.shape[3] <= 8192:
        kind = eps, scale, "none", False, False, x.dtype
        y: Tensor = HeadRows.apply(x, None, None, None, None, kind)  # type: ignore[no-untyped-call]  # torch gives no type
        return torch.unflatten(y, -1, (x.shape[1], -1)).transpose(1, 2)
    return head_norm(x, eps) * scale


def head_output(
    o: Tensor,
    gate: Tensor | None,
    weight: Tensor | None,
    eps: float,
    *,
    act: str = "silu",
    early: bool = False,
    whole: bool = False,
    extra: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """[B, T, H K] of o [B, H, T, K]: each head's norm (`whole`: one over all) times weight, gated.

    weight [K] (`whole`: [H K]); gate [B, T, H K], through silu or as it is (`act` none), `early`:
    before the norm. `extra`: x [B, H, T, K] and a factor [H] with which it joins o. On a GPU one
    kernel each way, under autocast in its type.
    """
    x, skip = extra or (None, None)
    given = [z for z in (gate, weight, x, skip) if z is not None]
    if on_triton(o, *given) and o.numel() and o.shape[1] * o.shape[3] <= 8192:
        dtype = norm_dtype(o, weight)
        dtype = dtype if gate is None else torch.promote_types(dtype, gate.dtype)
        kind = eps, 1.0, act, early, whole, dtype
        fused: Tensor = HeadRows.apply(o, gate, weight, x, skip, kind)  # type: ignore[no-untyped-call]  # torch gives no type
        return fused
    if gate is not None and act == "silu":
        gate = F.silu(gate)
    if x is not None and skip is not None:
        o = o + skip.to(o.dtype)[:, None, None] * x
    y = heads_last(o) if whole else o
    if early:
        assert whole, "a gate before the norm lies over all heads"
        y = y if gate is None else y * gate
    y = head_norm(y, eps)
    y = y if weight is None else y * weight
    y = y if whole else heads_last(y)
    return y if gate is None or early else y * gate


def blank(x: Tensor, mask: Tensor | None) -> Tensor:
    """x [B, T, D] with zeros where the mask [B, T] is False."""
    return x if mask is None else x * mask[..., None]


def shifted(x: Tensor) -> Tensor:
    """x_{t-1} at t, zeros at the first token: [B, T, D]."""
    return F.pad(x[:, :-1], (0, 0, 1, 0))


def short_conv(x: Tensor, weight: Tensor, bias: Tensor | None, act: bool) -> Tensor:
    """The depthwise causal convolution of x [B, T, D] with weight [D, 1, J], and silu if `act`.

    On a GPU a kernel serves up to 4 taps; under autocast it writes autocast's type.
    """
    taps = weight.shape[-1]
    given = [w for w in (weight, bias) if w is not None]
    if on_triton(x, *given) and taps <= 4 and x.numel():
        dtype = torch.promote_types(x.dtype, weight.dtype)
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        served: Tensor = ShortRows.apply(x, weight, bias, act, dtype)  # type: ignore[no-untyped-call]  # torch gives no type
        return served
    y = F.conv1d(F.pad(x.mT, (taps - 1, 0)), weight, bias, groups=x.shape[-1]).mT
    return F.silu(y) if act else y


class ShortConv(nn.Module):
    """silu of a depthwise causal convolution [B, T, D]; `tail` holds the last kernel - 1 inputs."""

    def __init__(self, dim: int, kernel: int, bias: bool = False) -> None:
        super().__init__()
        self.kernel = kernel
        self.conv = nn.Conv1d(dim, dim, kernel, groups=dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return short_conv(x, self.conv.weight, self.conv.bias, True)

    def tail(self, batch: int) -> Tensor:
        weight = self.conv.weight
        return weight.new_zeros(batch, self.kernel - 1, weight.shape[0])

    def step(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        recent = torch.cat([tail, x], dim=1)
        y = (recent * self.conv.weight[:, 0].T).sum(1, keepdim=True)
        return F.silu(y if self.conv.bias is None else y + self.conv.bias), recent[:, 1:]


# What an op lists in `uses`: what follows the heads; a short convolution; all that stands here.
HEAD_OUTPUT: tuple[Callable[..., Any], ...] = (
    on_triton,
    *HEAD_KERNELS,
    norm_dtype,
    heads_last,
    head_norm,
    unit_heads,
    head_output,
)
SHORT: tuple[Callable[..., Any], ...] = (on_triton, *SHORT_KERNELS, short_conv)
MIXING: tuple[Callable[..., Any], ...] = (
    heads_first,
    blank,
    shifted,
    *HEAD_OUTPUT,
    *SHORT,
    ShortConv,
)
