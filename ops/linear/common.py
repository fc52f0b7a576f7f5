"""What linear mixers share: the width of a head, maps of low rank."""

import torch
from torch import Tensor, nn

from ops.spec import Mismatch, TensorType


def head_width(x: TensorType, heads: int, expand: float, param: str) -> int:
    """expand * dim / heads. Raises: Mismatch unless it is whole and at least 1."""
    width = expand * x.dim / heads
    if width < 1 or width != int(width):
        raise Mismatch(
            f"{param}={expand:g} * dim={x.dim} / heads={heads} is not whole", param=param
        )
    return int(width)


class LowRank(nn.Module):
    """b + act(x W_1) W_2, [..., dim] -> [..., out]; W_1 starts at zero, b (if any) at `start`."""

    def __init__(
        self, dim: int, out: int, rank: int, act: str = "none", start: Tensor | None = None
    ) -> None:
        super().__init__()
        self.act = act
        self.down = nn.Linear(dim, rank, bias=False)
        self.up = nn.Linear(rank, out, bias=start is not None)
        nn.init.zeros_(self.down.weight)
        nn.init.orthogonal_(self.up.weight, gain=0.1)
        if start is not None:
            with torch.no_grad():
                self.up.bias.copy_(start)

    def forward(self, x: Tensor) -> Tensor:
        low = self.down(x)
        low = low.tanh() if self.act == "tanh" else low.sigmoid() if self.act == "sig" else low
        y: Tensor = self.up(low)
        return y
