"""Rows: what acts on each vector alone: norms with a sum in front, gated activations, losses.

    normed      norm(x) weight + bias;  rms: x / sqrt(mean x^2 + eps), layer: of x - mean x
    sum_normed  s = x + r and normed(s)
    gated       act(a) b of rows (a | b)
    loss        mean cross-entropy of rows of logits
    looked_up   rows of a small table; its gradient adds up without sorting
    head_loss   the same of x W^T + b, whose logits are never whole
    affine      x W^T + b; the gradient of b is a sum over rows

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
from ops.kernels.rows_loss_kernel import HeadLoss, LossRows
from ops.kernels.rows_norm_kernel import NORM_KERNELS, NormRows
from ops.kernels.rows_table_kernel import BIAS_KERNELS, TABLE_KERNELS, LinearRows, TableRows


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
        y: Tensor = NormRows.apply(x, None, weight, bias, eps, center, norm_dtype(x, weight), False)  # type: ignore[no-untyped-call]  # torch gives no type
        return y
    if center:
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    y = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def sum_normed(
    x: Tensor,
    r: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    center: bool = False,
) -> tuple[Tensor, Tensor]:
    """s = x + r and its norm; x itself and its norm where nothing is added."""
    given = [w for w in (r, weight, bias) if w is not None]
    if on_triton(x, *given) and 0 < x.shape[-1] <= 16384 and x.numel():
        s, y = NormRows.apply(x, r, weight, bias, eps, center, norm_dtype(x, weight), True)  # type: ignore[no-untyped-call]  # torch gives no type
        return s, y
    s = x if r is None else x + r
    return s, normed(s, weight, bias, eps, center=center)


def gated(z: Tensor, act: str) -> Tensor:
    """act(a) * b of z = (a | b) [..., 2 H]; `act` is silu, gelu (exact) or none."""
    if on_triton(z) and z.numel():
        y: Tensor = GateRows.apply(z, act)  # type: ignore[no-untyped-call]  # torch gives no type
        return y
    a, b = z.chunk(2, -1)
    return (F.silu(a) if act == "silu" else F.gelu(a) if act == "gelu" else a) * b


def looked_up(ids: Tensor, table: Tensor) -> Tensor:
    """Rows of `table` [V, D]; for V up to 512 its gradient is a product with one-hot rows."""
    if on_triton(table) and ids.device == table.device and table.shape[0] <= 512 and ids.numel():
        y: Tensor = TableRows.apply(ids, table)  # type: ignore[no-untyped-call]  # torch gives none
        return y
    return F.embedding(ids, table)


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b over the last axis."""
    if bias is not None and torch.is_grad_enabled() and on_triton(x, weight, bias) and x.numel():
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        y: Tensor = LinearRows.apply(x, weight, bias, dtype)  # type: ignore[no-untyped-call]  # torch gives no type
        return y
    return F.linear(x, weight, bias)


def row_loss(z: Tensor, label: Tensor, ignore: int = -100) -> Tensor:
    """Mean cross-entropy in nats of logits z [N, V], labels [N]; `ignore` counts nowhere."""
    if on_triton(z) and label.device == z.device and z.numel():
        loss: Tensor = LossRows.apply(z, label, ignore)  # type: ignore[no-untyped-call]  # torch gives no type
        return loss
    return F.cross_entropy(z, label, ignore_index=ignore)


def head_loss(
    x: Tensor, weight: Tensor, bias: Tensor | None, label: Tensor, ignore: int = -100
) -> Tensor:
    """`row_loss` of x W^T + b, x [N, D], W [V, D]; on a GPU without the [N, V] of all logits.

    About 2^25 logits are there at a time: 64 MiB in bf16.
    """
    given = (x, weight) if bias is None else (x, weight, bias)
    if on_triton(*given) and label.device == x.device and x.numel():
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        chunk = max(256, 2**25 // weight.shape[0])
        parts = x, weight, bias, label, ignore, chunk, dtype, torch.is_grad_enabled()
        loss: Tensor = HeadLoss.apply(*parts)  # type: ignore[no-untyped-call]  # torch gives no type
        return loss
    return row_loss(F.linear(x, weight, bias), label, ignore)


NORMED: tuple[Callable[..., Any], ...] = (on_triton, *NORM_KERNELS, norm_dtype, normed, sum_normed)
GATED: tuple[Callable[..., Any], ...] = (on_triton, *GATE_KERNELS, gated)
LOOKED_UP: tuple[Callable[..., Any], ...] = (on_triton, *TABLE_KERNELS, looked_up)
AFFINE: tuple[Callable[..., Any], ...] = (on_triton, *BIAS_KERNELS, affine)
