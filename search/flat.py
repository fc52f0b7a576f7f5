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
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ops.kernels.dispatch import on_triton
from search.flat_kernel import PARTS, Flat, update, update_plainly

ALIGN = 64  # numbers: 128 bytes of bfloat16


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


class FlatAdamW:
    """The optimiser of one model. `rates`: the learning rate of every step, on the device.

    Matrices decay, parameters with one axis or none do not. `cast`: those that get a shadow.
    The order is: shadowed matrices, shadowed vectors | vectors, matrices; shadows stand for the
    first `low` numbers, decay spares those from `kept[0]` to `kept[1]`. Gradients of shadows are
    gathered in bfloat16, the others in fp32.
    """

    def __init__(
        self,
        params: Sequence[nn.Parameter],
        *,
        rates: Tensor,
        weight_decay: float,
        cast: Collection[nn.Parameter] = (),
    ) -> None:
        shadowed = {id(p) for p in cast}

        def group(p: nn.Parameter) -> tuple[bool, bool]:
            high = id(p) not in shadowed
            return high, (p.dim() <= 1) != high

        ordered = sorted(params, key=group)
        starts = [0, *accumulate(-(-p.numel() // ALIGN) * ALIGN for p in ordered)]
        vectors = [i for i, p in enumerate(ordered) if p.dim() <= 1]
        low, size = starts[sum(id(p) in shadowed for p in ordered)], starts[-1]
        device = ordered[0].device
        master, m, v = torch.zeros(3, size, device=device).unbind(0)
        shadow, low_grad = torch.zeros(2, low, dtype=torch.bfloat16, device=device).unbind(0)
        self.flat = Flat(
            master,
            m,
            v,
            shadow,
            low_grad,
            grad=torch.zeros(size - low, device=device),
            count=torch.zeros((), device=device),
            rates=rates,
            parts=torch.zeros(PARTS, device=device),
            kept=(starts[vectors[0]], starts[vectors[-1] + 1]) if vectors else (0, 0),
            decay=float(weight_decay),
        )
        self.gaps = [
            torch.zeros(ALIGN, dtype=t, device=device) for t in (torch.bfloat16, torch.float32)
        ]
        self.slots = [
            self._slot(p, start, id(p) in shadowed)
            for p, start in zip(ordered, starts, strict=False)
        ]
        shadow.copy_(master[:low])

    def _slot(self, param: nn.Parameter, start: int, shadowed: bool) -> _Slot:
        end = start + param.numel()
        here = self.flat.master[start:end].view(param.shape)
        here.copy_(param.detach())
        param.data = here
        param.grad = None
        if not shadowed:
            return _Slot(param, param)
        return _Slot(param, nn.Parameter(self.flat.shadow[start:end].view(param.shape)))

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
        """The gradients at the leaves, one copy for each type; between two lie zeros.

        Raises: RuntimeError where a leaf got none.
        """
        targets = (self.flat.low_grad, self.flat.grad)
        for target, gap, shadowed in zip(targets, self.gaps, (True, False), strict=True):
            parts: list[Tensor] = []
            for slot in self.slots:
                if (slot.leaf is not slot.param) == shadowed:
                    if slot.leaf.grad is None:
                        raise RuntimeError("a parameter got a gradient once and not again")
                    parts += [slot.leaf.grad.flatten(), gap[: -slot.leaf.numel() % ALIGN]]
            if parts:
                torch.cat([part for part in parts if len(part)], out=target)

    def step(self) -> None:
        """Clip to norm `CLIP` and update, from the gradients at the leaves."""
        self.gather()
        (update if on_triton(self.flat.master) else update_plainly)(self.flat)

    def state(self) -> list[Tensor]:
        """All that `step` changes."""
        flat = self.flat
        return [flat.master, flat.m, flat.v, flat.count, flat.shadow]

    def release(self) -> None:
        """Give the parameters memory of their own again."""
        for slot in self.slots:
            slot.param.data = slot.param.data.clone()
