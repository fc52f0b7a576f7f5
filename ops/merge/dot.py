"""Matrix product of two values over their last two axes: `dot(a, b)`.

    y = a b,   y = a b / sqrt(K) when `scaled`;   K is the last axis of a

Shapes: seq [B, T, K] and [B, K, S] -> [B, T, S]; image, channel by channel, [B, C, H, K] and
[B, C, K, S] -> [B, C, H, S]; vec [B, K] twice -> scores [B, 1].
Attention is the softmax of a scaled dot(q, k^T), then dot with v.
Not causal on a seq: row t reads all of b; padded input has no meaning there.
Cost: no parameters; 2 T K S FLOPs a matrix (vec: an elementwise product, not counted).
From einspace's dot_product and scaled_dot_product: Ericsson et al. 2024, arXiv:2405.20838.
"""

from typing import Any

from torch import Tensor, nn

from grammar.domain import Flag
from ops.spec import Cost, Mismatch, Op, TensorType, image, need, scores, seq


class Dot(nn.Module):
    def __init__(self, scaled: bool = False) -> None:
        super().__init__()
        self.scaled = scaled

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        y = (a * b).sum(-1, keepdim=True) if a.dim() == 2 else a @ b
        return y * a.shape[-1] ** -0.5 if self.scaled else y


def _shape(*xs: TensorType, scaled: bool) -> TensorType:
    if len(xs) != 2:
        raise Mismatch(f"needs two values, got {len(xs)}", hint="write dot(a, b)")
    a, b = xs
    need(a, "seq", "vec", "image")
    need(b, a.kind)
    if a.kind == "vec":
        if a.dim != b.dim:
            raise Mismatch(f"{a} and {b} differ", hint="both vectors need one width")
        return scores(1)
    if a.shape[-1] != b.shape[-2] or a.shape[:-2] != b.shape[:-2]:
        turn = "permute(order=[2,1])" if a.kind == "seq" else "permute(order=[1,3,2])"
        raise Mismatch(
            f"{a} times {b}: the last axis of the first, {a.shape[-1]}, must be the second to last "
            f"of the second, {b.shape[-2]}" + ("" if a.kind == "seq" else ", with equal channels"),
            hint=f"turn the second with {turn} where both have one width",
        )
    if a.kind == "seq":
        return seq(a.shape[0], b.shape[1], grid=a.grid)
    return image(a.shape[0], a.shape[1], b.shape[2])


def _cost(*xs: TensorType, scaled: bool) -> Cost:
    a, b = xs
    return Cost() if a.kind == "vec" else Cost(flops=2 * a.numel * b.shape[-1])


def _init(*_: TensorType, scaled: bool) -> dict[str, Any]:
    return {"scaled": scaled}


OP = Op(
    name="dot",
    module=Dot,
    variadic=True,
    params={"scaled": Flag()},
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=lambda x, *_, scaled: x.kind != "seq",
    mask="none",
    paper="arXiv:2405.20838",
)
