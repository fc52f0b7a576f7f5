"""Head: from what has been computed to what the task wants, by one linear map.

    scores[N], vec[N]:  y = W mean_t(x_t) + b       (image: mean over H and W; vec, scores: as is)
    seq[T, V]:          y_t = W x_t + b             (a language model; not tied to the embedding)

Shapes: seq [B, T, D], image [B, C, H, W], vec or scores [B, D] -> [B, N];
seq [B, T, D] -> [B, T, V] for a language model.
Mask: the mean is over real tokens (einspace averages over features and maps tokens; not so here).
Cost: D N + N parameters; 2 D N FLOPs, per token for a language model.
"""

from typing import Any

from torch import Tensor, nn

from grammar.domain import Flag
from ops.kernels.rows import AFFINE, affine
from ops.spec import Cost, Mismatch, Op, TensorType, need


class Head(nn.Module):
    def __init__(self, dim: int, out: int, per_token: bool = False, bias: bool = True) -> None:
        super().__init__()
        linear = nn.Linear(dim, out, bias=bias)
        self.weight, self.bias, self.per_token = linear.weight, linear.bias, per_token

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if not self.per_token:
            x = self.pool(x, mask)
        return affine(x, self.weight, self.bias)

    def pool(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if x.dim() == 4:
            return x.mean((2, 3))
        if x.dim() == 2:
            return x
        if mask is None:
            return x.mean(1)
        return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def _shape(x: TensorType, bias: bool, target: TensorType | None) -> TensorType:
    if target is None:
        raise Mismatch(
            "nothing to aim at: give a task",
            hint="say which with --task, or end without head",
        )
    if target.kind == "seq":
        need(x, "seq")
        if x.length != target.length:
            raise Mismatch(
                f"the task wants {target.length} tokens, this has {x.length}",
                hint="keep the number of tokens on the way to head",
            )
        return TensorType("seq", target.shape, may_pad=x.may_pad)
    if target.kind not in ("scores", "vec"):
        raise Mismatch(
            f"head cannot make {target}", hint="head makes scores, vec or seq; end without it"
        )
    need(x, "seq", "image", "vec", "scores")
    return target


def _per_token(target: TensorType | None) -> bool:
    return target is not None and target.kind == "seq"


def _init(x: TensorType, bias: bool, target: TensorType) -> dict[str, Any]:
    return {"dim": x.dim, "out": target.dim, "per_token": _per_token(target), "bias": bias}


def _cost(x: TensorType, bias: bool, target: TensorType) -> Cost:
    times = x.length if _per_token(target) else 1
    return Cost(x.dim * target.dim + bias * target.dim, 2 * times * x.dim * target.dim)


OP = Op(
    name="head",
    module=Head,
    params={"bias": Flag(default=True)},
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=lambda x, bias, target: _per_token(target),
    mask="end",
    needs=("target",),
    uses=AFFINE,
)
