"""Rows: what acts on each vector alone: norms with a sum in front, gated activations, losses.

    normed      norm(x) weight + bias;  rms: x / sqrt(mean x^2 + eps), layer: of x - mean x
    sum_normed  s = x + r and normed(s)
    gated       act(a) b of rows (a | b)
    loss        mean cross-entropy of rows of logits

The functions here are the specification, in plain PyTorch; on a GPU each is one kernel forward and
one or two backward (`rows_*_kernel.py`). Under autocast on a GPU a norm writes autocast's dtype:
statistics and gains are fp32 inside, and what reads a norm is nearly always a matmul, whose cast
would be a further pass. A norm as wide as 16384 does not fit the registers; wider takes the plain
functions.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ops.kernels.dispatch import on_triton
from ops.kernels.rows_gate_kernel import GATE_KERNELS, GateRows
from ops.kernels.rows_loss_kernel import LossRows
from ops.kernels.rows_norm_kernel import NORM_KERNELS, NormRows


def norm_dtype(x: Tensor, weight: Tensor | None) -> torch.dtype:
    """What a norm writes on a GPU: autocast's dtype, else the widest of its inputs."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype if weight is None else torch.promote_types(x.dtype, weight.dtype)


def normed(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, *, center: bool = False
) -> Tensor:
    """The norm of each vector of x [..., D]: layer norm with `center`, else RMS norm."""
    gains = [w for w in (weight, bias) if w is not None]
    if on_triton(x, *gains) and 0 < x.shape[-1] <= 16384 and x.numel():
        y: Tensor = NormRows.apply(x, None, weight, bias, eps, center, norm_dtype(x, weight))  # type: ignore[no-untyped-call]  # torch gives no type
        return y
    if center:
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    y = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def sum_normed(
    x: Tensor,
    r: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    center: bool = False,
) -> tuple[Tensor, Tensor]:
    """s = x + r and its norm."""
    gains = [w for w in (weight, bias) if w is not None]
    if on_triton(x, r, *gains) and 0 < x.shape[-1] <= 16384 and x.numel():
        s, y = NormRows.apply(x, r, weight, bias, eps, center, norm_dtype(x, weight))  # type: ignore[no-untyped-call]  # torch gives no type
        return s, y
    s = x + r
    return s, normed(s, weight, bias, eps, center=center)


def gated(z: Tensor, act: str) -> Tensor:
    """act(a) * b of z = (a | b) [..., 2 H]; `act` is silu, gelu (exact) or none."""
    if on_triton(z) and z.numel():
        y: Tensor = GateRows.apply(z, act)  # type: ignore[no-untyped-call]  # torch gives no type
        return y
    a, b = z.chunk(2, -1)
    return (F.silu(a) if act == "silu" else F.gelu(a) if act == "gelu" else a) * b


def row_loss(z: Tensor, label: Tensor, ignore: int = -100) -> Tensor:
    """Mean cross-entropy in nats of logits z [N, V], labels [N]; `ignore` counts nowhere."""
    if on_triton(z) and label.is_cuda and z.numel():
        loss: Tensor = LossRows.apply(z, label, ignore)  # type: ignore[no-untyped-call]  # torch gives no type
        return loss
    return F.cross_entropy(z, label, ignore_index=ignore)


NORMED: tuple[Callable[..., Any], ...] = (on_triton, *NORM_KERNELS, norm_dtype, normed, sum_normed)
GATED: tuple[Callable[..., Any], ...] = (on_triton, *GATE_KERNELS, gated)
