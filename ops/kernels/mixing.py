"""What linear mixers share: heads, the norm of each head, short causal convolutions, token shift.

Shapes: activations [B, T, D], heads [B, H, T, K]. Padded places hold zeros in what they pass on.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


def blank(x: Tensor, mask: Tensor | None) -> Tensor:
    """x [B, T, D] with zeros where the mask [B, T] is False."""
    return x if mask is None else x * mask[..., None]


def shifted(x: Tensor) -> Tensor:
    """x_{t-1} at t, zeros at the first token: [B, T, D]."""
    return F.pad(x[:, :-1], (0, 0, 1, 0))


class ShortConv(nn.Module):
    """silu of a depthwise causal convolution [B, T, D]; `tail` holds the last kernel - 1 inputs."""

    def __init__(self, dim: int, kernel: int, bias: bool = False) -> None:
        super().__init__()
        self.kernel = kernel
        self.conv = nn.Conv1d(dim, dim, kernel, groups=dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.conv(F.pad(x.mT, (self.kernel - 1, 0))).mT)

    def tail(self, batch: int) -> Tensor:
        weight = self.conv.weight
        return weight.new_zeros(batch, self.kernel - 1, weight.shape[0])

    def step(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        recent = torch.cat([tail, x], dim=1)
        y = (recent * self.conv.weight[:, 0].T).sum(1, keepdim=True)
        return F.silu(y if self.conv.bias is None else y + self.conv.bias), recent[:, 1:]


MIXING = (heads_first, heads_last, head_norm, blank, shifted, ShortConv)
