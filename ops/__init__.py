"""The op library: `table()` finds every file below that defines `OP`."""

import importlib
import pkgutil
from functools import cache
from types import MappingProxyType

from ops.spec import Op


@cache
def _found() -> tuple[tuple[str, Op], ...]:
    rows: dict[str, tuple[str, Op]] = {}
    for info in pkgutil.walk_packages(__path__, prefix="ops."):
        if info.ispkg or info.name.count(".") != 2:
            continue
        op = getattr(importlib.import_module(info.name), "OP", None)
        if isinstance(op, Op):
            if op.name in rows:
                raise ImportError(f"two ops are called {op.name!r}: {info.name} is the second")
            rows[op.name] = (info.name.split(".")[1], op)
    return tuple(rows[name] for name in sorted(rows))


def table() -> MappingProxyType[str, Op]:
    """All ops by name. The first call imports torch and every op file."""
    return MappingProxyType({op.name: op for _, op in _found()})


def families() -> MappingProxyType[str, str]:
    """Op name -> family (the folder it lives in)."""
    return MappingProxyType({op.name: family for family, op in _found()})
