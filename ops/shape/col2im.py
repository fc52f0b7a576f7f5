"""Tokens back in their places of an image.

    y[d, i, j] = x[i W + j, d]

Shapes: seq [B, H W, D] with a grid (H, W), as `patch` and `im2col` leave it -> image [B, D, H, W].
A rearrangement, not a fold: overlapping windows are not summed. No parameters, no matmul.
From einspace: Ericsson et al. 2024, arXiv:2405.20838.
"""

from typing import Any

from torch import Tensor, nn

from ops.spec import Mismatch, Op, TensorType, image, need, no_cost


class Col2Im(nn.Module):
    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = (height, width)

    def forward(self, x: Tensor) -> Tensor:
        return x.mT.reshape(x.shape[0], x.shape[2], *self.size)


def _grid(x: TensorType) -> tuple[int, int]:
    need(x, "seq")
    if x.grid is None:
        raise Mismatch(
            f"{x} comes from no image", hint="im2col or patch before it, and no permute in between"
        )
    if x.grid[0] * x.grid[1] != x.length:
        raise Mismatch(
            f"{x} has {x.length} tokens, its grid of {x.grid[0]} x {x.grid[1]} needs "
            f"{x.grid[0] * x.grid[1]}",
            hint="keep the number of tokens between im2col and col2im",
        )
    return x.grid


def _shape(x: TensorType) -> TensorType:
    return image(x.dim, *_grid(x))


def _init(x: TensorType) -> dict[str, Any]:
    height, width = _grid(x)
    return {"height": height, "width": width}


OP = Op(
    name="col2im",
    module=Col2Im,
    shape=_shape,
    init=_init,
    cost=no_cost,
    causal=False,
    mask="none",
    fixed_length=True,
    paper="arXiv:2405.20838",
    example="image[16,16,16]: im2col(kernel=3) >> col2im",
)
