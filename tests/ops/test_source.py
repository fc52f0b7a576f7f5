"""Every op's source can stand in an exported file: pure, uniquely named, equal to its `inline`."""

import builtins
import inspect
import math
import symtable
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ops
from einspace.classtext import is_kernel, source_of
from ops.spec import Op
from tests.ops.case import Bench, close, collect

GIVEN = {"torch", "math", "Tensor", "nn", "F", "triton", "tl"}
by_op = pytest.mark.parametrize("op", ops.table().values(), ids=lambda op: op.name)
inlined = [bench for bench in collect() if bench.op.inline is not None]


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def outer_names(part: Callable[..., Any]) -> set[str]:
    """The names a class or function takes from its file, builtins left out."""
    source = source_of(part)
    top = symtable.symtable(source, "<op>", "exec")
    free = {
        s.get_name()
        for t in _tables(top)
        for s in t.get_symbols()
        if s.is_referenced() and (s.is_global() or t is top)
    }
    return free - {part.__name__} - set(dir(builtins))


def parts(op: Op) -> list[Callable[..., Any]]:
    return [op.module, *op.uses]


@by_op
def test_source_uses_only_what_an_export_has(op: Op) -> None:
    known = GIVEN | {part.__name__ for part in parts(op)}
    for part in parts(op):
        assert outer_names(part) <= known, f"{part.__name__} of {op.name}: list it in uses"


@pytest.mark.parametrize("bench", {b.op.name: b for b in collect()}.values(), ids=str)
def test_copied_source_alone_computes_the_same(bench: Bench) -> None:
    scope: dict[str, Any] = {"torch": torch, "math": math, "nn": nn, "F": F, "Tensor": torch.Tensor}
    scope |= {"triton": None} | {p.__name__: p for p in bench.op.uses if is_kernel(p)}
    for part in (*bench.op.uses, bench.op.module):
        if not is_kernel(part):
            exec(source_of(part), scope)
    torch.manual_seed(0)
    copy = scope[bench.op.module.__name__](**bench.op.init(*bench.case.types, **bench.params))
    data = bench.data()
    with torch.no_grad():
        expected = bench.values(bench.call(bench.build().eval(), data))
        actual = bench.values(bench.call(copy.eval(), data))
    close(tuple(actual), tuple(expected))


@by_op
def test_source_has_no_imports_and_no_exec(op: Op) -> None:
    for part in parts(op):
        source = source_of(part)
        words = set(source.replace("(", " ").split())
        assert not words & {"import", "exec", "eval", "global", "print"}, part.__name__


def test_names_are_unique_across_ops() -> None:
    owners: dict[str, object] = {}
    for op in ops.table().values():
        for part in parts(op):
            assert owners.setdefault(part.__name__, part) is part, f"two things called {part}"
    assert not set(owners) & (GIVEN | {"Model", "Block"})


@by_op
def test_forward_takes_the_declared_inputs(op: Op) -> None:
    if op.variadic:
        return
    names = list(inspect.signature(op.module.forward).parameters)[1:]
    declared = [
        n for i in op.inputs for n in ([i.name, f"{i.name}_mask"] if i.masked else [i.name])
    ]
    assert names[1:] == declared + (["mask"] if op.mask in ("use", "end") else [])


@pytest.mark.parametrize("bench", inlined, ids=str)
def test_inline_form_equals_the_module(bench: Bench) -> None:
    assert bench.op.inline is not None
    data = bench.data(dtype=torch.float64)
    names = [f"x{i}" for i in range(len(data))]
    expression = bench.op.inline(names, bench.params)
    scope = {"torch": torch, "nn": nn, "F": F, "math": math} | dict(zip(names, data, strict=True))
    expected = bench.values(bench.call(bench.build(dtype=torch.float64), data))[0]
    close(eval(f"({expression})", scope), expected)
