"""What a CUDA graph must hold (`capture=True`) reads nothing back and copies nothing in.

A graph replays kernels of fixed shapes, so the host may not wait for the device (`.item()`, shapes
that depend on data), nor bring numbers of its own (`torch.tensor`). Both are seen on a CPU: the
profiler records such calls, also those that autograd makes; a dispatch mode would not do, since
formulas such as the gradient of `cumprod` take another way, without reading back, under one.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile
from torch.utils._pytree import tree_map

from ops.case import BATCH, Bench, require, tensors

# What waits for the device there, or copies from the host. A mask as an index calls nonzero.
FORBIDDEN = frozenset(
    f"aten::{name}"
    for group in (
        ("item", "_local_scalar_dense", "is_nonzero", "equal", "lift_fresh"),
        ("nonzero", "masked_select", "masked_scatter", "bincount", "histc", "multinomial"),
        ("unique_dim", "_unique", "_unique2", "unique_consecutive"),
        ("linalg_inv", "linalg_solve", "linalg_lu_factor", "linalg_cholesky"),
        ("linalg_eigh", "linalg_svd"),
    )
    for name in group
)
# Its check of the indices is made on a CPU only.
CHECKED_ON_A_CPU = "aten::one_hot"


def faults(work: Callable[[], object]) -> dict[str, int]:
    """How often `work` does what no graph can hold: call chain, innermost first, to count."""
    found: dict[str, int] = {}
    with profile() as seen:
        work()
    for event in seen.function_events or ():
        if event.name not in FORBIDDEN:
            continue
        chain, at = [], event
        while at is not None:
            chain.append(at.name)
            at = at.cpu_parent
        if CHECKED_ON_A_CPU not in chain:
            text = " < ".join(chain)
            found[text] = found.get(text, 0) + 1
    return found


def asking(data: list[Any]) -> list[Any]:
    """The same values; the floating ones want gradients."""

    def ask(value: object) -> object:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value.requires_grad_()
        return value

    return [tree_map(ask, value) for value in data]


def training_step(bench: Bench, module: nn.Module, data: list[Any]) -> None:
    """Forward, backward and the update of the buffers."""
    returned = bench.call(module, data)
    outputs = [t for v in bench.values(returned) for t in tensors(v)]
    outputs += [returned["aux"]] if "aux" in returned else []
    outputs = [t for t in outputs if t.requires_grad]
    if outputs:
        torch.autograd.backward(outputs, [torch.ones_like(t) for t in outputs])
    if "stats" in returned:
        update = module.update
        assert callable(update)
        update(returned["stats"])


def decoding_step(bench: Bench, module: Any, data: list[Any]) -> None:
    """One token, from a fresh state."""
    roles = [i.role for i in bench.op.inputs]
    further = [(r, v) for r, v in zip(roles, data[1:], strict=True) if v is not None]
    static = [v for role, v in further if role == "static"]
    stream = [v[:, :1] for role, v in further if role == "stream"]
    with torch.no_grad():
        module.step(data[0][:, :1], module.init_state(BATCH, 7, *static), *stream)


def capturable(bench: Bench) -> None:
    """A training and a decoding step neither wait for the device nor bring numbers of their own.

    An op with `capture=False` says in its docstring why it cannot be captured.
    """
    if not bench.op.capture:
        page = inspect.getdoc(inspect.getmodule(bench.op.module)) or ""
        said = "`capture=False`" in page or "`capture=False`" in (bench.op.module.__doc__ or "")
        require(said, "say in the docstring why `capture=False`")
        return
    module, data = bench.build(), asking(bench.data())
    found = faults(lambda: training_step(bench, module, data))
    require(not found, f"a training step does {found}")
    if bench.op.state and bench.causal:
        module.eval()
        found = faults(lambda: decoding_step(bench, module, data))
        require(not found, f"a decoding step does {found}")


def device_of_the_inputs(bench: Bench) -> None:
    """Every tensor is made on the device of the inputs, never on the default one."""
    module, data = bench.build(), asking(bench.data())
    try:
        with torch.device("meta"):  # where a tensor lands whose device is not given
            training_step(bench, module, data)
            if bench.op.state and bench.causal:
                decoding_step(bench, module.eval(), data)
    except RuntimeError as error:
        require("meta" not in str(error), "a tensor is made without `device=x.device`")
        raise
