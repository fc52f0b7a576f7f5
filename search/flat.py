"""AdamW over one flat buffer: clip and update of all parameters in a handful of launches.

    g <- g min(1, 1 / (|g| + 1e-6))     m <- b1 m + (1-b1) g     v <- b2 v + (1-b2) g^2
    p <- p - lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay p)

Parameters become views of one fp32 buffer, each padded to `ALIGN` numbers. Under autocast most are
only ever read through their bfloat16 cast: for those the model is given a bfloat16 *shadow* while a
step runs, which is the leaf that gradients arrive at, and which one copy renews after the update.
Casts forward and backward, one kernel a parameter each, disappear, and the numbers stay the same.
Everything is on the device, so a CUDA graph can hold a whole step; on a GPU the update is two
kernels (`search/flat_kernel.py`).
AdamW: Loshchilov & Hutter 2019, arXiv:1711.05101.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ops.kernels.dispatch import on_triton
from search.flat_kernel import PARTS, update

ALIGN = 64  # numbers: 128 bytes of bfloat16
CLIP = 1.0
BETAS, EPS = (0.9, 0.999), 1e-8


class Casts(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Watches a forward pass: which parameters are read through a bfloat16 cast and not else."""

    def __init__(self, params: Sequence[nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.params = {id(p): p for p in params}
        self.cast: set[int] = set()
        self.other: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        low = func is torch.ops.aten._to_copy.default and kwargs.get("dtype") is torch.bfloat16
        for value in (*args, *kwargs.values()):
            for tensor in value if isinstance(value, list | tuple) else (value,):
                if id(tensor) in self.params:
                    (self.cast if low else self.other).add(id(tensor))
        return func(*args, **kwargs)

    def found(self) -> list[nn.Parameter]:
        """The parameters that a shadow can stand for."""
        return [self.params[i] for i in self.params if i in self.cast - self.other]


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where a parameter lies; `leaf` is what the model reads, the parameter or its shadow."""

    param: nn.Parameter
    leaf: nn.Parameter
    grad: Tensor


class FlatAdamW:
    """The optimiser of one model; `lr` is a tensor on the device, read at each `step`.

    Matrices decay, parameters with one axis or none do not. `cast`: those that get a shadow.
    """

    def __init__(
        self,
        params: Sequence[nn.Parameter],
        *,
        lr: Tensor,
        weight_decay: float,
        cast: Collection[nn.Parameter] = (),
    ) -> None:
        self.lr, self.weight_decay = lr, weight_decay
        low = {id(p) for p in cast}
        # decayed | decayed, shadowed | shadowed | the others
        ordered = sorted(params, key=lambda p: (p.dim() <= 1, (p.dim() <= 1) != (id(p) in low)))
        starts, at = [], 0
        for p in ordered:
            starts.append(at)
            at += -(-p.numel() // ALIGN) * ALIGN
        starts.append(at)
        device = ordered[0].device
        self.master, self.grad, self.m, self.v = torch.zeros(4, at, device=device).unbind(0)
        self.count = torch.zeros((), device=device)
        self.decayed = starts[sum(p.dim() > 1 for p in ordered)]
        shadowed = [start for p, start in zip(ordered, starts, strict=False) if id(p) in low]
        first = shadowed[0] if shadowed else 0
        last = starts[starts.index(shadowed[-1]) + 1] if shadowed else 0
        self.first, self.source = first, self.master[first:last]
        self.shadow = torch.zeros(last - first, dtype=torch.bfloat16, device=device)
        self.parts = torch.zeros(PARTS, device=device)
        self.slots: list[_Slot] = []
        for p, start in zip(ordered, starts, strict=False):
            here = self.master[start : start + p.numel()].view(p.shape)
            here.copy_(p.detach())
            p.data = here
            p.grad = None
            leaf = p
            if id(p) in low:
                at = start - first
                leaf = nn.Parameter(self.shadow[at : at + p.numel()].view(p.shape))
            grad = self.grad[start : start + p.numel()].view(p.shape)
            self.slots.append(_Slot(p, leaf, grad))
        self.renew()

    def renew(self) -> None:
        """Shadows from the parameters."""
        if len(self.shadow):
            self.shadow.copy_(self.source)

    @contextmanager
    def shadows(self, model: nn.Module) -> Iterator[None]:
        """The model reads the shadows instead of the parameters."""
        leaves = {id(s.param): s.leaf for s in self.slots}
        changed: list[tuple[nn.Module, str, nn.Parameter]] = []
        for module in model.modules():
            for name, param in module._parameters.items():
                if param is not None and leaves.get(id(param), param) is not param:
                    changed.append((module, name, param))
        for module, name, param in changed:
            module._parameters[name] = leaves[id(param)]
        try:
            yield
        finally:
            for module, name, param in changed:
                module._parameters[name] = param

    def clear(self) -> None:
        """No gradients: the next backward pass writes new ones."""
        for slot in self.slots:
            slot.leaf.grad = None

    def gather(self) -> None:
        """The gradients at the leaves, in the flat buffer."""
        for kind in (torch.bfloat16, torch.float32):
            pairs = [
                (s.grad, s.leaf.grad)
                for s in self.slots
                if s.leaf.grad is not None and s.leaf.grad.dtype == kind
            ]
            if pairs:
                torch._foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])

    def step(self) -> None:
        """Clip to norm `CLIP` and update, from the gradients at the leaves."""
        self.gather()
        if on_triton(self.master):
            update(
                (self.master, self.grad, self.m, self.v),
                self.shadow,
                self.first,
                self.parts,
                self.count,
                self.lr,
                decayed=self.decayed,
                decay=self.weight_decay,
                clip=CLIP,
                betas=BETAS,
                eps=EPS,
            )
        else:
            self._update()

    def _update(self) -> None:
        """The specification of `search/flat_kernel.py`, in torch's kernels."""
        norm = torch.linalg.vector_norm(self.grad)
        scale = (norm + 1e-6).div_(CLIP).clamp_min_(1.0)
        self.count.add_(1)
        for part, decay in (
            (slice(0, self.decayed), self.weight_decay),
            (slice(self.decayed, None), 0.0),
        ):
            if not len(self.master[part]):
                continue
            torch._fused_adamw_(  # gradients are divided by the scale
                [self.master[part]],
                [self.grad[part]],
                [self.m[part]],
                [self.v[part]],
                [],
                [self.count],
                lr=self.lr,
                beta1=BETAS[0],
                beta2=BETAS[1],
                weight_decay=decay,
                eps=EPS,
                amsgrad=False,
                maximize=False,
                grad_scale=scale,
                found_inf=None,
            )
        self.renew()

    def has_all(self) -> bool:
        """Whether a backward pass has reached every leaf."""
        return all(slot.leaf.grad is not None for slot in self.slots)

    def state(self) -> list[Tensor]:
        """All that `step` changes."""
        return [self.master, self.grad, self.m, self.v, self.count, self.shadow]

    def release(self) -> None:
        """Give the parameters memory of their own again."""
        for slot in self.slots:
            slot.param.data = slot.param.data.clone()
