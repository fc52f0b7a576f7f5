"""Position encoding: add to each place a vector that says where it is.

    sin:      y_t = x_t + p_t,  p_t[2i] = sin(t / 10000^(2i/D)),  p_t[2i+1] = cos(t / 10000^(2i/D))
    learned:  y = x + P,  P ~ N(0, 0.02), one entry for each place and channel of the input type

Shapes: seq [B, T, D] (learned: any length up to the type's); image [B, C, H, W] for learned alone.
Unlike einspace, whose tensor starts at N(0, 1): 0.02 does not drown the signal. State: the position
of the next token, [1]. Cost: 0 or numel(x) parameters, no matmul.
Paper: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.5.
"""

from typing import Any

import torch
from torch import Tensor, nn

from grammar.domain import Word
from ops.spec import Cost, Mismatch, Op, TensorType, need


class PosEnc(nn.Module):
    """`size` is the shape of the learned table, empty for sinusoids."""

    rate: Tensor

    def __init__(self, dim: int, size: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.dim = dim
        self.weight = nn.Parameter(0.02 * torch.randn(size)) if size else None
        rate = 10000.0 ** (-torch.arange(0, dim, 2) / dim)
        self.register_buffer("rate", rate, persistent=False)

    def at(self, position: Tensor) -> Tensor:
        """The vectors [n, D] of the positions [n]."""
        if self.weight is not None:
            return self.weight[position]
        angle = position[:, None] * self.rate
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[:, : self.dim]

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is not None and x.dim() == 4:
            return x + self.weight
        return x + self.at(torch.arange(x.shape[1], device=x.device)).to(x.dtype)

    def init_state(self, batch: int, length: int) -> Tensor:
        if self.weight is not None and length > self.weight.shape[0]:
            raise ValueError(f"learned positions end at {self.weight.shape[0]}, asked for {length}")
        return torch.zeros(1, dtype=torch.long, device=self.rate.device)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return x + self.at(state).to(x.dtype), state + 1


def _shape(x: TensorType, kind: str) -> TensorType:
    need(x, "seq", "image")
    if x.kind == "image" and kind == "sin":
        raise Mismatch(
            f"kind=sin counts tokens, and {x} has none", param="kind", hint="take kind=learned here"
        )
    return x


def _init(x: TensorType, kind: str) -> dict[str, Any]:
    return {"dim": x.dim, "size": x.shape if kind == "learned" else ()}


OP = Op(
    name="pos_enc",
    module=PosEnc,
    params={"kind": Word(("sin", "learned"), default="sin")},
    shape=_shape,
    init=_init,
    cost=lambda x, kind: Cost(
        params=x.numel if kind == "learned" else 0, state=8 if x.kind == "seq" else 0
    ),
    causal=lambda x, kind: x.kind == "seq",
    state=True,
    needs_positions=True,
    paper="arXiv:1706.03762",
)
