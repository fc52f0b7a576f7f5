"""Pairs of an op and a public implementation of it: called alike, compared, printed as a table.

Errors are the largest difference of the output and of the gradient of the input, as shares of the
largest value. A difference needs a note that explains it.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

DIM, HEADS, LENGTH, TOLERANCE = 32, 4, 40, 1e-5
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Pair:
    """One op and its peer, ready to be called with the same input."""

    op: str
    peer: str
    ours: Function
    theirs: Function
    note: str = ""


def differences(pair: Pair, x: Tensor) -> tuple[float, float]:
    """Largest difference of outputs and of input gradients, as shares of the largest value."""
    found = []
    for function in (pair.ours, pair.theirs):
        given = x.clone().requires_grad_()
        y = function(given)
        torch.manual_seed(1)
        (y * torch.randn(y.shape, dtype=y.dtype)).sum().backward()  # not _like: strides differ
        assert given.grad is not None
        found.append((y.detach(), given.grad))
    (y, g), (y_peer, g_peer) = found
    y_error = (y - y_peer).abs().max() / y_peer.abs().max()
    return y_error.item(), ((g - g_peer).abs().max() / g_peer.abs().max()).item()


def part(module: str, name: str) -> Any:
    """A name of a peer. Raises: ImportError where the peer is not installed."""
    return getattr(importlib.import_module(module), name)


def fill(layer: nn.Module) -> Any:
    """The layer in float64, its one-dimensional weights away from their start."""
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, mean=float(parameter.dim() == 1), std=0.3)
    return layer.double().eval()


def copy(pairs: list[tuple[nn.Parameter | Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for target, source in pairs:
            target.copy_(source)


def row(op: str, peer: str, errors: str, verdict: str) -> str:
    return f"{op:<50}{peer:<48}{errors:>19}  {verdict}"


def table(groups: Iterable[Callable[[], Iterator[Pair]]]) -> int:
    """Print a line a pair; 1 if any pair without an explanation differs."""
    torch.manual_seed(5)
    x, wrong = torch.randn(2, LENGTH, DIM, dtype=torch.float64), 0
    print(row("op", "peer", f"{'output':>9}{'gradient':>10}", "verdict"))
    for group in groups:
        try:
            pairs = list(group())
        except ImportError as missing:
            print(row(group.__name__, "not installed", "", f"left out ({missing})"))
            continue
        for pair in pairs:
            output, gradient = differences(pair, x)
            equal = max(output, gradient) < TOLERANCE
            wrong += not equal and not pair.note
            verdict = "equal" if equal else f"differs: {pair.note}" if pair.note else "DIFFERS"
            print(row(pair.op, pair.peer, f"{output:>9.1e}{gradient:>10.1e}", verdict))
    return int(wrong > 0)
