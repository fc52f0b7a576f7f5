"""Nystrom attention: softmax attention through a few landmarks and an iterated pseudo-inverse.

    Q~, K~ = means of q, k over m segments;   F_1 = softmax(q K~^T), A = softmax(Q~ K~^T),
    F_2 = softmax(Q~ k^T)  (logits times 1/sqrt(K));   y = W_o (F_1 Z F_2 v + conv(v)),   Z ~ A^+
    Z_0 = A^T / (|A|_1 |A|_inf),   Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4

Not causal. Shapes: x [B, T, D] -> [B, T, D], K = D / heads; m = min(landmarks, T) segments of equal
length (the last padded). `kernel`: width of the depthwise convolution of v, per head, 0: none.
Mask: means are over tokens; a segment of padding only is left out of F_1, F_2 and A.
Cost: 4 D^2 + heads kernel parameters; FLOPs: 8 T D^2 + 8 T m D + 4 m^2 D, 8 m^3 heads a step of
the iteration, 2 T D kernel.
Paper: Xiong et al. 2021, "Nystromformer", arXiv:2102.03902, eq. 14-18 and algorithm 1.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Int
from ops.attention.engine import masked_softmax, split_heads
from ops.spec import Cost, Op, TensorType, need, need_divides


def iterated_inverse(a: Tensor, steps: int) -> Tensor:
    """The pseudo-inverse of a [..., M, M] by an iteration of third order."""
    eye = torch.eye(a.shape[-1], device=a.device, dtype=a.dtype)
    norms = a.abs().sum(-2).amax(-1) * a.abs().sum(-1).amax(-1)
    z = a.mT / norms[..., None, None]
    for _ in range(steps):
        az = a @ z
        z = z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az))) / 4
    return z


class NystromAttention(nn.Module):
    def __init__(self, dim: int, heads: int, landmarks: int, kernel: int, steps: int) -> None:
        super().__init__()
        self.heads, self.landmarks, self.steps = heads, landmarks, steps
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.conv = nn.Parameter(torch.randn(heads, kernel) * kernel**-0.5) if kernel else None

    def local(self, v: Tensor) -> Tensor:
        """Depthwise convolution along tokens, one kernel a head: [B, H, T, K] -> the same."""
        assert self.conv is not None
        width = self.conv.shape[1]
        weight = self.conv.repeat_interleave(v.shape[-1], 0)[:, None]
        channels = F.pad(v.mT.flatten(1, 2), ((width - 1) // 2, width // 2))
        y = F.conv1d(channels, weight, groups=channels.shape[1])
        return torch.unflatten(y, 1, (self.heads, -1)).mT

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        t = x.shape[1]
        q, k, v = (split_heads(z, self.heads) for z in self.qkv(x).chunk(3, -1))
        real = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
        q, v = q * q.shape[-1] ** -0.5, v * real[:, None, :, None]
        size = -(-t // min(self.landmarks, t))
        pad = -t % size
        count = torch.unflatten(F.pad(real, (0, pad)), 1, (-1, size)).sum(-1)
        alive = (count > 0)[:, None]
        q_mean, k_mean = (
            torch.unflatten(F.pad(z * real[:, None, :, None], (0, 0, 0, pad)), 2, (-1, size)).sum(3)
            / count.clamp_min(1)[:, None, :, None]
            for z in (q, k)
        )
        rows = masked_softmax(q_mean @ k.mT, real[:, None, None])
        columns = masked_softmax(q @ k_mean.mT, alive[:, :, None])
        core = masked_softmax(q_mean @ k_mean.mT, alive[:, :, None])
        both = alive[..., None] & alive[:, :, None]
        core = torch.where(both, core, torch.eye(core.shape[-1], device=x.device, dtype=x.dtype))
        rows = rows * alive[..., None]
        y = columns @ (iterated_inverse(core, self.steps) @ (rows @ v))
        if self.conv is not None:
            y = y + self.local(v)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


def _shape(x: TensorType, heads: int, landmarks: int, kernel: int, steps: int) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    return x


def _cost(x: TensorType, heads: int, landmarks: int, kernel: int, steps: int) -> Cost:
    t, d = x.length, x.dim
    m = -(-t // -(-t // min(landmarks, t)))
    flops = 8 * t * d * d + 8 * t * m * d + 4 * m * m * d
    flops += 8 * m**3 * heads * steps + 2 * t * d * kernel
    kept = 4 * (4 * t * d + 2 * heads * t * m + 4 * steps * heads * m * m)
    return Cost(4 * d * d + heads * kernel, flops, kept)


OP = Op(
    name="nystrom",
    module=NystromAttention,
    params={
        "heads": Int(1, 64),
        "landmarks": Int(1, 4096, log=True, default=64),
        "kernel": Int(0, 129, default=33),
        "steps": Int(1, 64, default=6),
    },
    shape=_shape,
    cost=_cost,
    causal=False,
    mask="use",
    uses=(split_heads, masked_softmax, iterated_inverse),
    paper="arXiv:2102.03902",
)
