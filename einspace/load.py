"""Load: the emitted source as a module; its `Model` is the architecture.

A Triton kernel in the source that is, word for word, one of the op table is not compiled again: the
name stands for the kernel that this process already has. Triton's caches are keyed by the kernel's
text and its line in the file, so a kernel is compiled once a shape class, not once an architecture.
"""

import ast
import hashlib
import linecache
import textwrap
import types
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from torch import nn

from einspace.optable import table
from ops.source import is_kernel, source_of

GUARD = "triton is not None"


def load(source: str, name: str = "model") -> type[nn.Module]:
    """The class `Model` of an emitted file; tracebacks show its lines."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    filename = f"<{name} {digest}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    module = types.ModuleType(f"emitted_{digest}")
    tree = ast.parse(source, filename)
    for guard in _guards(tree):
        known = _known(guard, source)
        module.__dict__.update({k.__name__: k for k in known.values()})
        guard.body = [n for n in guard.body if n not in known] or [ast.Pass()]
        ast.fix_missing_locations(guard)
    exec(compile(tree, filename, "exec"), module.__dict__)
    model = module.__dict__["Model"]
    assert isinstance(model, type)
    assert issubclass(model, nn.Module)
    return model


def _guards(tree: ast.Module) -> Iterator[ast.If]:
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == GUARD:
            yield node


def _known(guard: ast.If, source: str) -> Mapping[ast.stmt, Any]:
    """The kernels under the guard that the op table has with the same text."""
    lines = source.splitlines()
    found: dict[ast.stmt, Any] = {}
    for node in guard.body:
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            text = "\n".join(lines[first - 1 : node.end_lineno])
            kernel = kernels().get(textwrap.dedent(text).rstrip() + "\n")
            if kernel is not None:
                found[node] = kernel
    return found


@cache
def kernels() -> Mapping[str, Any]:
    """Every kernel of the op table by its text."""
    return {source_of(k): k for op in table().values() for k in op.uses if is_kernel(k)}
