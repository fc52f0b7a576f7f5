"""Load: the emitted source as a module; its `Model` is the architecture.

A Triton kernel in the source that is, word for word, one of the op table is not compiled again: the
name stands for the kernel that this process already has. Triton's caches are keyed by the kernel's
text and its line in the file, so a kernel is compiled once a shape class, not once an architecture.
Python's compiler too sees a definition once: a file is taken statement by statement, and the code
of each is kept by its text, so that of a new architecture only its own classes are new.
"""

import hashlib
import linecache
import re
import textwrap
import types
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import Any

from torch import nn

from einspace.optable import table
from ops.source import is_kernel, source_of

GUARD = "triton is not None"
# Where a statement may begin: what else stands in the first column goes on with one.
BEGINS = re.compile(r"@|class |def |if |import |from |try:|\w+ *[:=]")


def load(source: str, name: str = "model") -> type[nn.Module]:
    """The class `Model` of an emitted file; tracebacks show its lines.

    Raises: SyntaxError.
    """
    module = types.ModuleType(f"emitted_{_digest(source)}")
    scope = module.__dict__
    for part in statements(source):
        if part.startswith(f"if {GUARD}:"):
            _link(part, name, scope)
        else:
            exec(_code(part, name), scope)
    model = scope["Model"]
    assert isinstance(model, type)
    assert issubclass(model, nn.Module)
    return model


def _link(guard: str, name: str, scope: dict[str, Any]) -> None:
    """The kernels under the guard: those of the op table with the same text, else the file's."""
    if scope.get("triton") is None:
        return
    for part in statements(textwrap.dedent(guard.partition("\n")[2])):
        kernel = kernels().get(part.strip() + "\n")
        if kernel is None:
            exec(_code(part, name), scope)
        else:
            scope[kernel.__name__] = kernel


def statements(source: str) -> Iterator[str]:
    """The statements of a file, each up to the next one; a decorator goes with its own."""
    begun: list[str] = []
    decorated = True  # what stands before the first statement goes with it
    for line in source.splitlines(keepends=True):
        if BEGINS.match(line):
            if not decorated:
                yield "".join(begun)
                begun = []
            decorated = line.startswith("@")
        begun.append(line)
    yield "".join(begun)


@lru_cache(4096)
def _code(part: str, name: str) -> types.CodeType:
    filename = f"<{name} {_digest(part)}>"
    linecache.cache[filename] = (len(part), None, part.splitlines(keepends=True), filename)
    return compile(part, filename, "exec")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def kernels() -> Mapping[str, Any]:
    """Every kernel of the op table by its text."""
    return {source_of(k): k for op in table().values() for k in op.uses if is_kernel(k)}
