"""The source of an op as it stands in an exported file, and whether it can stand there alone."""

import ast
import builtins
import inspect
import re
import symtable
import textwrap
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

from ops.spec import Op

# What every emitted file has before its first class.
GIVEN = frozenset({"torch", "math", "Tensor", "nn", "F", "triton", "tl"})
OURS = re.compile(r"Model|Block\d*")  # the classes that the emitter writes
CALLS = frozenset({"exec", "eval", "print", "compile", "open", "__import__", "globals"})


def is_kernel(thing: Any) -> bool:
    """Whether `thing` is a Triton kernel (compiled or interpreted): it wraps a function."""
    return inspect.isfunction(getattr(thing, "fn", None)) and not inspect.isclass(thing)


@cache
def source_of(thing: Any) -> str:
    """The source of a class, function or Triton kernel, word for word."""
    plain = thing.fn if is_kernel(thing) else thing
    return textwrap.dedent(inspect.getsource(plain)).rstrip() + "\n"


def parts(op: Op) -> tuple[Callable[..., Any], ...]:
    """All of an op that is copied into an export: its module and what it uses."""
    return (op.module, *op.uses)


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def outer_names(part: Callable[..., Any]) -> set[str]:
    """The names a class or function takes from its file, builtins left out."""
    top = symtable.symtable(source_of(part), "<op>", "exec")
    free = {
        s.get_name()
        for t in _tables(top)
        for s in t.get_symbols()
        if s.is_referenced() and (s.is_global() or t is top)
    }
    return free - {part.__name__} - set(dir(builtins))


def impurities(op: Op) -> list[str]:
    """Why the op's source could not stand alone in an exported file; empty where it can."""
    known = GIVEN | {part.__name__ for part in parts(op)}
    found = []
    for part in parts(op):
        where = f"{part.__name__} of '{op.name}'"
        missing = outer_names(part) - known
        if missing:
            found.append(f"{where} takes {', '.join(sorted(missing))} from its file")
        for node in ast.walk(ast.parse(source_of(part))):
            if isinstance(node, ast.Import | ast.ImportFrom | ast.Global):
                found.append(f"{where} has {ast.unparse(node)!r} inside")
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in CALLS:
                found.append(f"{where} calls {ast.unparse(node.func)}")
    return found


def name_clashes(ops: Iterable[Op]) -> list[str]:
    """Names of copied parts that mean two things; a file that holds both would hold one."""
    owners: dict[str, tuple[object, str]] = {}
    found = []
    for op in ops:
        for part in parts(op):
            name = part.__name__
            if owners.setdefault(name, (part, op.name))[0] is not part:
                other = owners[name][1]
                found.append(f"{name} of '{op.name}' and {name} of '{other}' are two things")
            if name in GIVEN or OURS.fullmatch(name):
                found.append(f"{name} of '{op.name}' is a name of the emitted file itself")
    return found
