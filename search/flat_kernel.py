"""The update of `search/flat.py` in two kernels: squares of the gradient, then everything else.

    norm_squares   parts_i = sum of g^2 of the i-th share; the step is counted
    adamw_flat     clip from the parts, moments, decay, parameters and their bfloat16 shadows

torch's fused AdamW gives each 65,536 numbers of a tensor one block, so that the one flat tensor of
a small model keeps seven of 132 multiprocessors busy. Here a program has `BLOCK` numbers.
Floor in bytes a parameter: 4 for the norm; 16 read, 12 written, 2 of a shadow for the update.
Powers of the betas are taken in float64: 1 - 0.999^t loses four digits in float32.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"
# (what a kernel takes are pointers and numbers of the device: Python has no types for them)

import math
from typing import Any

from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # torch's own kernels serve
    triton = None

PARTS = 256  # shares of the norm
BLOCK = 1024

if triton is not None:

    @triton.jit
    def norm_squares(grad, parts, count, size, BLOCK: tl.constexpr, PARTS: tl.constexpr):
        share = tl.program_id(0)
        total = tl.zeros([BLOCK], tl.float32)
        for start in range(share * BLOCK, size, PARTS * BLOCK):
            at = start + tl.arange(0, BLOCK)
            g = tl.load(grad + at, mask=at < size, other=0.0)
            total += g * g
        tl.store(parts + share, tl.sum(total, 0))
        if share == 0:
            tl.store(count, tl.load(count) + 1.0)

    @triton.jit
    def adamw_flat(
        master, grad, m, v, shadow, parts, count, lr, size, decayed, first, last, decay,
        CLIP: tl.constexpr, BETA1: tl.constexpr, BETA2: tl.constexpr, LOG1: tl.constexpr,
        LOG2: tl.constexpr, EPS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
    ):  # fmt: skip
        norm = tl.sqrt(tl.sum(tl.load(parts + tl.arange(0, PARTS)), 0))
        scale = CLIP / tl.maximum(norm + 1e-6, CLIP)
        scale = tl.where(norm == norm, scale, norm)  # a norm that is not a number stays one
        step = tl.load(count).to(tl.float64)
        left1 = (1.0 - tl.exp(step * LOG1)).to(tl.float32)
        left2 = tl.sqrt((1.0 - tl.exp(step * LOG2)).to(tl.float32))
        rate = tl.load(lr)
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside = at < size
        g = tl.load(grad + at, mask=inside, other=0.0) * scale
        a = tl.load(m + at, mask=inside, other=0.0)
        b = tl.load(v + at, mask=inside, other=0.0)
        p = tl.load(master + at, mask=inside, other=0.0)
        a += (g - a) * (1.0 - BETA1)
        b = b * BETA2 + g * g * (1.0 - BETA2)
        p = tl.where(at < decayed, p * (1.0 - rate * decay), p)
        p -= rate / left1 * a / (tl.sqrt(b) / left2 + EPS)
        tl.store(m + at, a, mask=inside)
        tl.store(v + at, b, mask=inside)
        tl.store(master + at, p, mask=inside)
        low = p.to(shadow.dtype.element_ty)
        tl.store(shadow + (at - first), low, mask=inside & (at >= first) & (at < last))


def update(
    tensors: tuple[Tensor, Tensor, Tensor, Tensor],
    shadow: Tensor,
    first: int,
    parts: Tensor,
    count: Tensor,
    lr: Tensor,
    *,
    decayed: int,
    decay: float,
    clip: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """One step in place: master, gradient and moments of one size, fp32, shadows of the master
    from `first` on, `PARTS` numbers of scratch, the step's count and learning rate; the first
    `decayed` numbers decay."""
    size = tensors[0].numel()
    words: dict[str, Any] = {"BLOCK": BLOCK, "PARTS": PARTS, "num_warps": 4}
    norm_squares[(PARTS,)](tensors[1], parts, count, size, **words)
    low = shadow if shadow.numel() else parts  # an empty tensor has no address
    adamw_flat[(triton.cdiv(size, BLOCK),)](
        *tensors, low, parts, count, lr, size, decayed, first, first + shadow.numel(), decay,
        CLIP=clip, BETA1=betas[0], BETA2=betas[1], LOG1=math.log(betas[0]),
        LOG2=math.log(betas[1]), EPS=eps, **words,
    )  # fmt: skip
