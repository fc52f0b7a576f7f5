"""Zero-cost proxies: what one batch says of a network that has not been trained.

    synflow    sum |w . dR/dw|, R = 1^T f(1)           Tanaka et al. 2020, arXiv:2006.05467, eq. 2
    snip       sum |w . dL/dw|                         Lee et al. 2019, arXiv:1810.02340, eq. 6
    grad_norm  sum over tensors of ||dL/dw||_2         Abdelfattah et al. 2021, arXiv:2101.08134
    naswot     log |det K|, K_ij = units equal in i, j Mellor et al. 2021, arXiv:2006.04647, eq. 2
    jacobian   -sum log(e + k) + 1/(e + k), e the eigenvalues of the correlations between the rows'
               input gradients, k = 1e-5               Abdelfattah et al. 2021, section 3
    params     numbers trained
    flops      multiply-adds of one row times 2, as torch counts them

Each is a pure function of (model, x [B, ...], y, loss): the model is copied, the random state put
back, and the only randomness (dropout) has a fixed seed; higher should mean better. The weights
are those given, so the caller's seed decides. A score that does not exist (no unit to look at, a
determinant of 0, a flow that overflows) is -inf. Raises everywhere: RuntimeError, ValueError of the
model itself.

What replaces functions for synflow stands at `Positive`.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Proxy: TypeAlias = Callable[[nn.Module, Tensor, Tensor, Loss], float]
NOTHING = float("-inf")
JACOBIAN_K = 1e-5


def synflow(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
    """Flow through the positive network, in float64; of `x` only the shape matters (tokens: one
    row of them)."""
    with _alone(model) as net:
        net.double().eval()
        with torch.no_grad():
            for tensor in (*net.parameters(), *net.buffers()):
                if tensor.is_floating_point():
                    tensor.abs_()
        ones = torch.ones_like(x[:1], dtype=torch.float64) if x.is_floating_point() else x[:1]
        with Positive():
            total = net(ones).sum()
        return _told(sum(float((p * g).abs().sum()) for p, g in _gradients(net, total)))


def snip(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
    """How much the loss would change, to first order, if single weights were cut."""
    with _alone(model) as net:
        pairs = _gradients(net, loss(net(x), y))
        return _told(sum(float((p * g).abs().sum()) for p, g in pairs))


def grad_norm(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
    """Euclidean norms of the gradients, summed over the tensors."""
    with _alone(model) as net:
        return _told(sum(float(g.norm()) for _, g in _gradients(net, loss(net(x), y))))


def naswot(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
    """How well the signs of the units' inputs tell the rows of the batch apart.

    Units: relu as in the paper, and the functions listed in `Units`, of which the sign is taken.
    """
    with _alone(model) as net, torch.no_grad(), Units() as units:
        net(x)
    codes = [u.reshape(len(x), -1) for u in units.seen if u.dim() > 1 and len(u) == len(x)]
    if not codes:
        return NOTHING
    code = torch.cat(codes, dim=1).double()
    kernel = code @ code.T + (1 - code) @ (1 - code).T
    sign, value = torch.linalg.slogdet(kernel)
    return _told(float(value)) if float(sign) > 0 else NOTHING


def jacobian(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
    """How little the gradients of the rows' outputs by the rows' inputs resemble each other.

    Where the input is tokens, the gradient is by the embedded tokens; without one: -inf.
    """
    with _alone(model) as net, Leaf(x) as leaf:
        out = net(leaf.given)
        if leaf.leaf is None or not out.requires_grad:
            return NOTHING
        (grad,) = torch.autograd.grad(out.sum(), leaf.leaf, allow_unused=True)
    if grad is None or len(grad) < 2:
        return NOTHING
    rows = grad.reshape(len(grad), -1).double()
    rows = rows - rows.mean(1, keepdim=True)
    norms = rows.norm(dim=1)
    # A row that its input does not move correlates with nothing.
    if not bool(((norms > 0) & norms.isfinite()).all()):
        return NOTHING
    rows = rows / norms[:, None]
    eigen = torch.linalg.eigvalsh(rows @ rows.T).clamp_min(0.0) + JACOBIAN_K
    return float(-(eigen.log() + 1 / eigen).sum())


def params(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
    """Numbers that are trained."""
    return float(sum(p.numel() for p in model.parameters() if p.requires_grad))


def flops(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> float:
    """Multiply-adds of matrix products and convolutions, times 2, of one row's forward pass."""
    with _alone(model) as net, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        net.eval()
        with FlopCounterMode(display=False) as counter:
            net(x)
    return float(counter.get_total_flops() / len(x))


PROXIES: Mapping[str, Proxy] = MappingProxyType(
    {
        "synflow": synflow,
        "snip": snip,
        "grad_norm": grad_norm,
        "naswot": naswot,
        "jacobian": jacobian,
        "params": params,
        "flops": flops,
    }
)


def _told(score: float) -> float:
    """The score, if it is a number."""
    return score if math.isfinite(score) else NOTHING


@contextmanager
def _alone(model: nn.Module) -> Iterator[nn.Module]:
    """A copy in training mode, with random numbers of its own."""
    net = copy.deepcopy(model)
    net.train()
    net.zero_grad(set_to_none=True)
    devices = [p.device for p in net.parameters() if p.is_cuda][:1]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        yield net


def _gradients(net: nn.Module, value: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Trained tensors with their gradients; those that `value` does not read are left out."""
    trained = [p for p in net.parameters() if p.requires_grad]
    if not trained or not value.requires_grad:
        return []
    found = torch.autograd.grad(value, trained, allow_unused=True)
    return [(p.detach(), g) for p, g in zip(trained, found, strict=True) if g is not None]


class Positive(TorchFunctionMode):
    """The network whose flow synflow measures: a polynomial in |w| with positive coefficients.

    Weights and buffers are made positive by the caller. By Euler's theorem a layer's score says
    nothing if the output does not grow with its weights, which is what norms and softmaxes do;
    so here

    - a norm is its gain and bias alone (`rsqrt` of a hand-written norm is 1): batch, layer, rms,
      group and instance norm; the paper's own experiments leave batch norm in evaluation mode;
    - a softmax is uniform over its axis, and attention is the mean of the values a query may see:
      values and output projections carry flow, queries and keys, which only steer, none;
    - relu, gelu, silu, elu, leaky relu, softplus and tanh are the identity, which is what they are
      (tanh: near 0) for positive numbers; a sigmoid gate is half open: its input steers, too.

    The fused `nn.GRU` and `nn.LSTM` are no functions of torch that can be replaced: they stay as
    they are, on positive weights.
    """

    def __torch_function__(  # type: ignore[no-untyped-def]  # the signature is torch's
        self, func, types, args=(), kwargs=None
    ):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "float":  # ops that ask for fp32 would overflow at 3e38
            return args[0].double()
        if name in IDENTITIES:
            return args[0] if args else kwargs["input"]
        if name in NORMS:
            return _gain(name, args, kwargs)
        if name in STEADY:
            return torch.full_like(args[0], STEADY[name])
        if name in ("softmax", "_softmax"):
            x = args[0]
            dim = args[1] if len(args) > 1 else kwargs.get("dim", -1)
            return torch.full_like(x, 1 / x.shape[dim])
        if name == "scaled_dot_product_attention":
            return _mean_of_values(*args, **kwargs)
        return func(*args, **kwargs)


IDENTITIES = frozenset(
    {"relu", "relu_", "gelu", "silu", "elu", "leaky_relu", "softplus", "tanh", "dropout"}
)
STEADY: Mapping[str, float] = MappingProxyType({"sigmoid": 0.5, "rsqrt": 1.0})
# Where weight and bias stand among the positional arguments of each norm.
NORMS: Mapping[str, tuple[int, int | None]] = MappingProxyType(
    {
        "layer_norm": (2, 3),
        "rms_norm": (2, None),
        "batch_norm": (3, 4),
        "group_norm": (2, 3),
        "instance_norm": (3, 4),
    }
)


def _gain(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """x times the norm's weight plus its bias, along the axis that the norm gives them."""
    x: Tensor = args[0] if args else kwargs["input"]
    last = name in ("layer_norm", "rms_norm")
    for key, at in zip(("weight", "bias"), NORMS[name], strict=True):
        found = kwargs.get(key)
        if found is None and at is not None and len(args) > at:
            found = args[at]
        if found is not None:
            shape = (...,) if last else (None, slice(None), *([None] * (x.dim() - 2)))
            x = x * found[shape] if key == "weight" else x + found[shape]
    return x


def _mean_of_values(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention whose scores are all equal: the mean of the values a query may see."""
    shape = (*query.shape[:-1], key.shape[-2])
    seen = torch.ones(shape, dtype=torch.bool, device=query.device)
    if is_causal:
        seen = seen.tril()
    if attn_mask is not None:
        seen = seen & (attn_mask if attn_mask.dtype == torch.bool else attn_mask > NOTHING)
    if enable_gqa:
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], dim=-3)
    weights = seen.to(value.dtype)
    return weights / weights.sum(-1, keepdim=True).clamp_min(1.0) @ value


class Units(TorchFunctionMode):
    """Keeps the signs of what goes into the units."""

    NAMES = frozenset({"relu", "relu_", "leaky_relu", "gelu", "silu", "elu", "sigmoid", "tanh"})

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(  # type: ignore[no-untyped-def]  # the signature is torch's
        self, func, types, args=(), kwargs=None
    ):
        if getattr(func, "__name__", "") in self.NAMES:
            self.seen.append(args[0].detach() > 0)
        return func(*args, **(kwargs or {}))


class Leaf(TorchFunctionMode):
    """The tensor by which the jacobian is taken: the input, or what `embedding` makes of tokens."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        floats = x.is_floating_point()
        self.leaf: Tensor | None = x.detach().clone().requires_grad_() if floats else None
        self.given = x if self.leaf is None else self.leaf

    def __torch_function__(  # type: ignore[no-untyped-def]  # the signature is torch's
        self, func, types, args=(), kwargs=None
    ):
        out = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "embedding" and self.leaf is None:
            self.leaf = out.detach().clone().requires_grad_()
            return self.leaf
        return out
