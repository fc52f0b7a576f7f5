"""Dense softmax attention: what the ops call (torch's SDPA) beside each of its backends.

FLOPs forward 4 area H D a batch row, backward 2.5 times that; bytes: q, k, v, o, in the backward
q, k, v, o, do read and dq, dk, dv written.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.kernels.harness import SDPA, Row

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
# (batch, heads, length, head width): the last four are those of small models.
SIZES = [
    (4, 16, 1024, 64),
    (4, 16, 4096, 64),
    (1, 16, 16384, 64),
    (1, 4, 65536, 64),
    (4, 16, 4096, 128),
    (1, 16, 16384, 128),
    (64, 4, 256, 32),
    (64, 2, 256, 64),
    (64, 4, 256, 64),
    (16, 4, 1024, 64),
]


def tensors(b: int, h: int, t: int, d: int, grad: bool) -> Callable[[int], tuple[Tensor, ...]]:
    """q, k, v [B, H, T, D] in bf16 by seed."""

    def make(seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator("cuda").manual_seed(seed)
        made = (
            torch.randn(b, h, t, d, generator=generator, device="cuda", dtype=torch.bfloat16)
            for _ in range(3)
        )
        return tuple(x.requires_grad_(grad) for x in made)

    return make


def exact(causal: bool) -> Callable[..., Tensor]:
    """Written-out attention in the dtype of its inputs."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.mT * q.shape[-1] ** -0.5
        if causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        return scores.softmax(-1) @ v

    return attend


def plain(causal: bool) -> Callable[..., Tensor]:
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def through(backend: SDPBackend, causal: bool) -> Callable[..., Tensor]:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    return attend


def rows() -> Iterator[Row]:
    """Causal at every size, bidirectional at the second."""
    for b, h, t, d in SIZES:
        for causal in (True, False) if (b, t, d) == (4, 4096, 64) else (True,):
            area = t * (t + 1) / 2 if causal else t * t
            for mode in ("fwd", "fwd+bwd"):
                train = mode != "fwd"
                yield Row(
                    engine="dense",
                    name=f"{'causal' if causal else 'full'} B{b} H{h} N{t} D{d}",
                    mode=mode,
                    inputs=tensors(b, h, t, d, train),
                    small=tensors(2, 3, 200, d, train),
                    ours=plain(causal),
                    reference=exact(causal),
                    flops=4 * area * d * b * h * (3.5 if train else 1),
                    bytes=2 * b * h * t * d * (12 if train else 4),
                    peers={n: through(back, causal) for n, back in BACKENDS.items()},
                    note=SDPA,
                )
