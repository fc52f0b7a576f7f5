"""The cases of the shipped ops: every test file of an op has `OP_NAME` and `CASES`."""

import importlib
import pkgutil
from functools import cache
from pathlib import Path

import ops
from ops.case import BATCH, LONG, Bench, Case, close, complete, matches, sample, tensors

__all__ = [
    "BATCH",
    "LONG",
    "Bench",
    "Case",
    "bench",
    "close",
    "collect",
    "complete",
    "matches",
    "sample",
    "tensors",
]


@cache
def collect() -> tuple[Bench, ...]:
    """Every (op, case) of the test files below this folder."""
    table = ops.table()
    found = []
    for info in pkgutil.walk_packages([str(Path(__file__).parent)], prefix="tests.ops."):
        name = info.name.rpartition(".")[2]
        if info.ispkg or not name.startswith("test_") or info.name.count(".") < 3:
            continue
        module = importlib.import_module(info.name)
        if (word := getattr(module, "OP_NAME", None)) is not None:
            assert word in table, f"{info.name} tests {word!r}, which is no op"
            found += [Bench(table[word], case) for case in module.CASES]
    return tuple(found)


def bench(name: str, case: Case) -> Bench:
    """One op of the table with one case, for an op's own tests."""
    return Bench(ops.table()[name], case)
