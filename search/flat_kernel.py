"""The update of `search/flat.py` in two kernels: squares of the gradient, then everything else.

    norm_squares   parts_i = sum of g^2 of the i-th share; the step is counted
    adamw_flat     clip from the parts, moments, decay, parameters and their bfloat16 shadows

torch's fused AdamW gives each 65,536 numbers of a tensor one block, so that the one flat tensor of
a small model keeps seven of 132 multiprocessors busy: 57 us where this takes 7. Here a program has
`BLOCK` numbers. Floor in bytes a parameter with a shadow: 2 for the norm; 14 read and 14 written.
Powers of the betas are taken in float64: 1 - 0.999^t loses four digits in float32.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, untyped-decorator"
# (what a kernel takes are pointers and numbers of the device: Python has no types for them)

import math
from dataclasses import dataclass

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # torch's own kernels serve
    triton = None

CLIP = 1.0
BETAS, EPS = (0.9, 0.999), 1e-8
PARTS = 256  # shares of the norm
BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Flat:
    """What an update reads and writes. The first `low` numbers have shadows and gradients in
    bfloat16, the others gradients in fp32; decay spares the numbers from `kept[0]` to `kept[1]`."""

    master: Tensor
    m: Tensor
    v: Tensor
    shadow: Tensor
    low_grad: Tensor
    grad: Tensor
    count: Tensor
    rates: Tensor
    parts: Tensor
    kept: tuple[int, int]
    decay: float

    @property
    def low(self) -> int:
        return self.shadow.numel()


if triton is not None:

    @triton.jit
    def norm_squares(
        low_grad, grad, parts, count, low, size, BLOCK: tl.constexpr, PARTS: tl.constexpr
    ):
        share = tl.program_id(0)
        total = tl.zeros([BLOCK], tl.float32)
        for start in range(share * BLOCK, low, PARTS * BLOCK):
            at = start + tl.arange(0, BLOCK)
            g = tl.load(low_grad + at, mask=at < low, other=0.0).to(tl.float32)
            total += g * g
        for start in range(share * BLOCK, size - low, PARTS * BLOCK):
            at = start + tl.arange(0, BLOCK)
            g = tl.load(grad + at, mask=at < size - low, other=0.0)
            total += g * g
        tl.store(parts + share, tl.sum(total, 0))
        if share == 0:
            tl.store(count, tl.load(count) + 1.0)

    @triton.jit
    def adamw_flat(
        master, m, v, shadow, low_grad, grad, parts, count, rates, low, size, first, last, decay,
        CLIP: tl.constexpr, BETA1: tl.constexpr, BETA2: tl.constexpr, LOG1: tl.constexpr,
        LOG2: tl.constexpr, EPS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
    ):  # fmt: skip
        norm = tl.sqrt(tl.sum(tl.load(parts + tl.arange(0, PARTS)), 0))
        scale = CLIP / tl.maximum(norm + 1e-6, CLIP)
        scale = tl.where(norm == norm, scale, norm)  # a norm that is not a number stays one
        number = tl.load(count)
        step = number.to(tl.float64)
        left1 = (1.0 - tl.exp(step * LOG1)).to(tl.float32)
        left2 = tl.sqrt((1.0 - tl.exp(step * LOG2)).to(tl.float32))
        rate = tl.load(rates + number.to(tl.int64) - 1)
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        inside, below = at < size, at < low
        g = tl.load(low_grad + at, mask=below, other=0.0).to(tl.float32)
        g += tl.load(grad + (at - low), mask=inside & (at >= low), other=0.0)
        g *= scale
        a = tl.load(m + at, mask=inside, other=0.0)
        b = tl.load(v + at, mask=inside, other=0.0)
        p = tl.load(master + at, mask=inside, other=0.0)
        a += (g - a) * (1.0 - BETA1)
        b = b * BETA2 + g * g * (1.0 - BETA2)
        p = tl.where((at >= first) & (at < last), p, p * (1.0 - rate * decay))
        p -= rate / left1 * a / (tl.sqrt(b) / left2 + EPS)
        tl.store(m + at, a, mask=inside)
        tl.store(v + at, b, mask=inside)
        tl.store(master + at, p, mask=inside)
        tl.store(shadow + at, p.to(shadow.dtype.element_ty), mask=below)


def update(flat: Flat) -> None:
    """One step in place, from the gradients in the flat buffers."""
    size, low = flat.master.numel(), flat.low
    # An empty tensor has no address; nothing is read or written at what stands for it.
    shadow, low_grad = (flat.shadow, flat.low_grad) if low else (flat.parts, flat.parts)
    grad = flat.grad if low < size else flat.parts
    norm_squares[(PARTS,)](
        low_grad, grad, flat.parts, flat.count, low, size, BLOCK=BLOCK, PARTS=PARTS, num_warps=4
    )
    adamw_flat[(triton.cdiv(size, BLOCK),)](
        flat.master, flat.m, flat.v, shadow, low_grad, grad, flat.parts, flat.count, flat.rates,
        low, size, *flat.kept, flat.decay,
        CLIP=CLIP, BETA1=BETAS[0], BETA2=BETAS[1], LOG1=math.log(BETAS[0]),
        LOG2=math.log(BETAS[1]), EPS=EPS, BLOCK=BLOCK, PARTS=PARTS, num_warps=4,
    )  # fmt: skip


def update_plainly(flat: Flat) -> None:
    """The specification of `update`, in torch's kernels."""
    grad = torch.cat([flat.low_grad.float(), flat.grad])
    scale = (torch.linalg.vector_norm(grad) + 1e-6).div_(CLIP).clamp_min_(1.0)
    rate = flat.rates.index_select(0, flat.count.long().view(1))[0]
    flat.count.add_(1)
    first, last = flat.kept
    for part, decay in (
        (slice(0, first), flat.decay),
        (slice(first, last), 0.0),
        (slice(last, None), flat.decay),
    ):
        if len(flat.master[part]):
            torch._fused_adamw_(  # gradients are divided by the scale
                [flat.master[part]],
                [grad[part]],
                [flat.m[part]],
                [flat.v[part]],
                [],
                [flat.count],
                lr=rate,
                beta1=BETAS[0],
                beta2=BETAS[1],
                weight_decay=decay,
                eps=EPS,
                amsgrad=False,
                maximize=False,
                grad_scale=scale,
                found_inf=None,
            )
    flat.shadow.copy_(flat.master[: flat.low])
