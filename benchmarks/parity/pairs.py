"""Pairs of an op and a public implementation of it: called alike, compared, printed as a table.

Errors are the largest difference of the output, of the gradient of the input and of the gradients
of the weights, as shares of the largest value of each. Where our weights were copied from a peer's,
the peer's gradients are compared: those of ours, led back through what was done to copy them, are
what it must find. Where the peer is called with our weights, theirs are. A difference needs a note
that explains it.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

DIM, HEADS, LENGTH, TOLERANCE = 32, 4, 40, 1e-5
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Pair:
    """One op and its peer, ready to be called with the same input; `layer` holds our weights, where
    `ours` is neither a module nor a method of one."""

    op: str
    peer: str
    ours: Function
    theirs: Function
    note: str = ""
    layer: nn.Module | None = None


def run(function: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output and the gradient of the input; weights get theirs."""
    given = x.clone().requires_grad_()
    y = function(given)
    torch.manual_seed(1)
    (y * torch.randn(y.shape, dtype=y.dtype)).sum().backward()  # not _like: strides differ
    assert given.grad is not None
    return y.detach(), given.grad


def leaves(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The weights that tensors were made of."""
    found: dict[int, Tensor] = {}
    nodes: list[Any] = []
    for tensor in tensors:
        if tensor.grad_fn is None:
            found[id(tensor)] = tensor
        nodes.append(tensor.grad_fn)
    while nodes:
        node = nodes.pop()
        if node is not None:
            weight = getattr(node, "variable", None)
            if weight is not None:
                found[id(weight)] = weight
            nodes += [before for before, _ in node.next_functions]
    return list(found.values())


def expected(layer: nn.Module) -> list[tuple[Tensor, Tensor, bool]]:
    """Weights of the peer, the gradients that ours ask of them, and whether they are its own."""
    mine = [p for p in layer.parameters() if p.grad is not None]
    copied = [(p, p.peer) for p in mine if isinstance(getattr(p, "peer", None), Tensor)]
    copied = [(p, source) for p, source in copied if source.requires_grad]
    sources = [source for _, source in copied]
    wanted = leaves(sources)
    grads = [p.grad for p, _ in copied]
    led = torch.autograd.grad(sources, wanted, grads, retain_graph=True) if sources else ()
    whole = [(w, g.clone(), True) for w, g in zip(wanted, led, strict=True)]
    shared = [p for p in mine if not any(p is q for q, _ in copied)]
    return [*whole, *((p, p.grad.clone(), False) for p in shared if p.grad is not None)]


def share(error: Tensor, of: Tensor) -> float:
    return (error.abs().max() / of.abs().max()).item()


def differences(pair: Pair, x: Tensor) -> tuple[float, float, float | None]:
    """Of outputs, of gradients of the input and of weights (None: no weight in common)."""
    function: Any = pair.ours
    layer = pair.layer or (function if isinstance(function, nn.Module) else None)
    layer = layer or getattr(function, "__self__", None)
    if layer is not None:
        layer.zero_grad()
    y, g = run(pair.ours, x)
    wanted = [] if layer is None else expected(layer)
    for weight, _, _ in wanted:
        weight.grad = None
    y_peer, g_peer = run(pair.theirs, x)
    errors = []
    for weight, gradient, own in wanted:
        found = weight.grad
        if found is None and not own:
            continue  # nothing of ours is used there
        if gradient.abs().max() > 1e-12:
            errors.append(share(gradient - (0 if found is None else found), gradient))
    return share(y - y_peer, y_peer), share(g - g_peer, g_peer), max(errors, default=None)


def part(module: str, name: str) -> Any:
    """A name of a peer. Raises: ImportError where the peer is not installed."""
    return getattr(importlib.import_module(module), name)


def fill(layer: nn.Module) -> Any:
    """The layer in float64, its one-dimensional weights away from their start."""
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.3)
    return layer.double().eval()


def copy(pairs: Sequence[tuple[Any, Tensor]]) -> None:
    """Copy weights, whole ones: each remembers where it came from."""
    for target, source in pairs:
        with torch.no_grad():
            target.copy_(source)
        target.peer = source  # read by `expected` alone


def row(op: str, peer: str, errors: str, verdict: str) -> str:
    return f"{op:<50}{peer:<48}{errors:>28}  {verdict}"


def table(groups: Iterable[Callable[[], Iterator[Pair]]]) -> int:
    """Print a line a pair; 1 if any pair without an explanation differs."""
    torch.manual_seed(5)
    x, wrong = torch.randn(2, LENGTH, DIM, dtype=torch.float64), 0
    print(row("op", "peer", f"{'output':>9}{'input':>9}{'weights':>10}", "verdict"))
    for group in groups:
        try:
            pairs = list(group())
        except ImportError as missing:
            print(row(group.__name__, "not installed", "", f"left out ({missing})"))
            continue
        for pair in pairs:
            errors = differences(pair, x)
            equal = max(e for e in errors if e is not None) < TOLERANCE
            wrong += not equal and not pair.note
            verdict = "equal" if equal else f"differs: {pair.note}" if pair.note else "DIFFERS"
            words = [f"{e:>9.1e}" if e is not None else f"{'-':>9}" for e in errors]
            print(row(pair.op, pair.peer, "".join(words), verdict))
    return int(wrong > 0)
