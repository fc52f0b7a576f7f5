"""Bidirectional LSTM: one LSTM reads from the left, another from the right, side by side.

    y_t = [LSTM_1(x_1 .. x_t); LSTM_2(x_T .. x_t)]        (cells as in `lstm`)

Not causal: the second half has read what follows. Shapes: x [B, T, D] -> [B, T, dim], dim / 2 for
each direction (default dim = 2 D).
Mask: h_t = h_{t-1} at padding, wherever it lies: each direction runs over the real tokens only,
moved to the front; outputs at padding are 0.
Cost, with h = dim / 2: 8 h (D + h + 2) parameters, 16 T h (D + h) FLOPs.
Paper: Schuster & Paliwal 1997, "Bidirectional recurrent neural networks", equations 1-2; cells:
Hochreiter & Schmidhuber 1997, Gers et al. 2000.
"""

from typing import Any

import torch
from torch import Tensor, nn

from grammar.domain import Int
from ops.spec import Cost, Mismatch, Op, TensorType, need


class BiLSTM(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.ahead = nn.LSTM(dim, hidden, batch_first=True)
        self.back = nn.LSTM(dim, hidden, batch_first=True)

    def sorted(self, cells: nn.Module, x: Tensor, key: Tensor) -> Tensor:
        """The outputs of the cells that read the tokens in the order of `key` [B, T]."""
        order = key.argsort(1)[..., None]
        y: Tensor = cells(x.gather(1, order.expand_as(x)))[0]
        return y.gather(1, order.argsort(1).expand_as(y))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            return torch.cat([self.ahead(x)[0], self.back(x.flip(1))[0].flip(1)], -1)
        t = torch.arange(x.shape[1], device=x.device).expand_as(mask)
        last = t + x.shape[1]
        ahead = self.sorted(self.ahead, x, torch.where(mask, t, last))
        back = self.sorted(self.back, x, torch.where(mask, -t, last))
        return torch.cat([ahead, back], -1) * mask[..., None]


def _hidden(x: TensorType, dim: int | None) -> int:
    return x.dim if dim is None else dim // 2


def _shape(x: TensorType, dim: int | None) -> TensorType:
    need(x, "seq")
    if dim is not None and dim % 2:
        raise Mismatch(f"dim={dim} has no two equal halves", param="dim", hint="dim must be even")
    return x.with_dim(2 * _hidden(x, dim))


def _init(x: TensorType, dim: int | None) -> dict[str, Any]:
    return {"dim": x.dim, "hidden": _hidden(x, dim)}


def _cost(x: TensorType, dim: int | None) -> Cost:
    t, d, h = x.length, x.dim, _hidden(x, dim)
    return Cost(8 * h * (d + h + 2), 16 * t * h * (d + h), 48 * t * h)


OP = Op(
    name="bilstm",
    module=BiLSTM,
    params={"dim": Int(2, 65536, log=True, default=None, none=True)},
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=False,
    mask="use",
    paper="doi:10.1109/78.650093",
)
