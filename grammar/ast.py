"""The syntax tree: what `parse` returns and `show` prints.

Nodes are frozen and compare by content; `span` (the place in the text) takes no part in equality.
Invariants kept by the constructors `seq`, `total` and `choice`, which parser and Python form share:
a `Seq` never holds a `Seq`, a `Sum` never a `Sum`, and a choice of one unweighted alternative is
that alternative.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Literal, TypeAlias

from grammar.errors import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What every node has: its place in the text, or None when it was made by a program."""

    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Number(Node):
    """`128`, `1e-2`."""

    value: int | float


@dataclass(frozen=True, slots=True)
class String(Node):
    """`"text"`; `value` is the unescaped text."""

    value: str


@dataclass(frozen=True, slots=True)
class Name(Node):
    """A bare name: op, rule, `let` value, rule parameter, flag or word of a domain."""

    id: str


@dataclass(frozen=True, slots=True)
class Value(Node):
    """`@name`, `@name.field`, `@name[0]`, `@name[-1]`, `@name[]` (index "all")."""

    name: str
    field: str | None = None
    index: int | Literal["all"] | None = None


@dataclass(frozen=True, slots=True)
class Range(Node):
    """`lo..hi` or `lo..hi by step`."""

    low: int | float
    high: int | float
    step: int | float | None = None


@dataclass(frozen=True, slots=True)
class ListOf(Node):
    """`[a, b, c]`."""

    items: tuple["Expr", ...]


@dataclass(frozen=True, slots=True)
class Arg(Node):
    """One argument of a call: positional when `name` is None."""

    name: str | None
    value: "Expr"


@dataclass(frozen=True, slots=True)
class Call(Node):
    """`name(arguments)`: an op, a rule or a form."""

    name: str
    args: tuple[Arg, ...] = ()


@dataclass(frozen=True, slots=True)
class Repeat(Node):
    """`body * count`; the count is a Number, Range, Name or Choice."""

    body: "Expr"
    count: "Expr"


@dataclass(frozen=True, slots=True)
class Bind(Node):
    """`body as name`."""

    body: "Expr"
    name: str


@dataclass(frozen=True, slots=True)
class Seq(Node):
    """`a >> b >> c`, at least two items."""

    items: tuple["Expr", ...]


@dataclass(frozen=True, slots=True)
class Sum(Node):
    """`a + b + c`, at least two items."""

    items: tuple["Expr", ...]


@dataclass(frozen=True, slots=True)
class Alt(Node):
    """One alternative of a choice; the weight is a Number, the Name of a `let` value, or None."""

    weight: Number | Name | None
    body: "Expr"


@dataclass(frozen=True, slots=True)
class Choice(Node):
    """`a | 0.3: b`: in braces, after `=`, in a rule body or a list item."""

    alts: tuple[Alt, ...]


Expr: TypeAlias = (
    Number | String | Name | Value | Range | ListOf | Call | Repeat | Bind | Seq | Sum | Choice
)


@dataclass(frozen=True, slots=True)
class Param(Node):
    """A parameter in a rule's header, with its default or None."""

    name: str
    default: Expr | None = None


@dataclass(frozen=True, slots=True)
class Decl(Node):
    """`[let|fix] name(params) = body;`; `params` is None where the header has no parentheses."""

    kind: Literal["rule", "let", "fix"]
    name: str
    params: tuple[Param, ...] | None
    body: Expr


@dataclass(frozen=True, slots=True)
class Space(Node):
    """A whole text: declarations and an optional final sentence."""

    decls: tuple[Decl, ...]
    final: Expr | None = None


def seq(items: Sequence[Expr], span: Span | None = None) -> Expr:
    """`items` in sequence, nested sequences flattened."""
    flat = tuple(x for item in items for x in (item.items if isinstance(item, Seq) else (item,)))
    return flat[0] if len(flat) == 1 else Seq(flat, span=span)


def total(items: Sequence[Expr], span: Span | None = None) -> Expr:
    """The sum of `items`, nested sums flattened."""
    flat = tuple(x for item in items for x in (item.items if isinstance(item, Sum) else (item,)))
    return flat[0] if len(flat) == 1 else Sum(flat, span=span)


def choice(alts: Sequence[Alt], span: Span | None = None) -> Expr:
    """A choice; one unweighted alternative is itself."""
    if len(alts) == 1 and alts[0].weight is None:
        return alts[0].body
    return Choice(tuple(alts), span=span)


@cache
def _parts(kind: type[Node]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind) if f.name != "span")


def children(node: Node) -> Iterator[Node]:
    """The direct parts of a node, left to right."""
    for name in _parts(type(node)):  # type: ignore[arg-type]  # a class has the hash of a class
        part = getattr(node, name)
        for item in part if isinstance(part, tuple) else (part,):
            if isinstance(item, Node):
                yield item


@contextmanager
def deep() -> Iterator[None]:
    """Room for recursion over a tree, several frames a level; `parse` bounds the levels."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, 15_000))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)
