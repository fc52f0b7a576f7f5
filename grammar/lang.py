"""The language as Python objects: the same operators, the same tree.

    from grammar import lang as E
    E.embed(dim=128) >> E.block * (2, 6) >> E.head
    E.softmax_attn(heads=E.choice(2, 4, 8), causal=True)
    E.space(E.let("d", E.choice(64, 128)), final=E.embed(dim=E.d) >> E.head)

Any word is an attribute of this module; the words that name the functions below are had by
`word("range")`. A Python text is a text in quotes, a list or tuple is a list, True, False and None
are the words. Nothing is evaluated: what is built is what `parse` gives for the same text.
`a | b | c` is one choice of three; brackets nest, as braces do: `a | (b | c)`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from grammar import ast
from grammar.ast import (
    Alt,
    Arg,
    Bind,
    Call,
    Choice,
    Decl,
    Expr,
    ListOf,
    Name,
    Number,
    Param,
    Range,
    Repeat,
    Space,
    String,
    Value,
)
from grammar.errors import SpaceError
from grammar.forms import RESERVED
from grammar.parse import MAX_NUMBER

WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
LABEL = re.compile(r"[a-z_][a-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a text; `open` is a choice that a further `|` extends."""

    expr: Expr
    open: bool = field(default=False, compare=False)

    def __rshift__(self, other: object) -> "Part":
        return Part(ast.seq([self.expr, tree(other)]))

    def __rrshift__(self, other: object) -> "Part":
        return Part(ast.seq([tree(other), self.expr]))

    def __add__(self, other: object) -> "Part":
        return Part(ast.total([self.expr, tree(other)]))

    def __radd__(self, other: object) -> "Part":
        return Part(ast.total([tree(other), self.expr]))

    def __or__(self, other: object) -> "Part":
        return Part(Choice((*_alts(self), *_right(other))), open=True)

    def __ror__(self, other: object) -> "Part":
        return Part(Choice((Alt(None, tree(other)), *_right(self))), open=True)

    def __mul__(self, count: object) -> "Part":
        return Part(Repeat(self.expr, _count(count)))

    def __call__(self, *args: object, **named: object) -> "Part":
        if not isinstance(self.expr, Name):
            raise SpaceError("only a name can be called", hint="write E.name(...)")
        given = [Arg(None, tree(a)) for a in args]
        given += [Arg(_word(n), tree(a)) for n, a in named.items()]
        return Part(Call(self.expr.id, tuple(given)))

    def __getitem__(self, index: int | slice) -> "Part":
        """`ref("h")[0]`, `ref("h")[-1]`, and `ref("h")[:]` for `@h[]`."""
        if not isinstance(self.expr, Value) or isinstance(index, bool):
            raise SpaceError("only a value has an index", hint='write E.ref("h")[0]')
        if isinstance(index, slice):
            if index != slice(None):
                raise SpaceError("a list is taken whole", hint='write E.ref("h")[:]')
            return Part(Value(self.expr.name, self.expr.field, "all"))
        return Part(Value(self.expr.name, self.expr.field, index))

    __iter__ = None  # `[]` would make Python iterate a value without end

    def as_(self, name: str) -> "Part":
        """`part as name`."""
        return Part(Bind(self.expr, _free(name)))


def tree(item: object) -> Expr:
    """The tree of a part, or of a Python value. Raises: SpaceError for what has no text."""
    match item:
        case Part(expr):
            return expr
        case bool():
            return Name("true" if item else "false")
        case None:
            return Name("none")
        case int() | float():
            return Number(_finite(item))
        case str():
            if "\n" in item:
                raise SpaceError("a text in quotes stands on one line", hint="remove the newline")
            return String(item)
        case list() | tuple():
            return ListOf(tuple(tree(i) for i in item))
    raise SpaceError(
        f"a {type(item).__name__} is no part of the language",
        hint="parts are words, numbers, texts, lists and what the operators make of them",
    )


def word(name: str) -> Part:
    """A word: op, rule, value or flag."""
    return Part(Name(_word(name)))


def one(item: object) -> Part:
    """A Python value as a part, so that operators apply: `one(2) | 4 | 8`."""
    return Part(tree(item))


def choice(*items: object) -> Part:
    """`{a | b | c}`: closed, so that a further `|` nests it."""
    if not items:
        raise SpaceError("empty choice", hint="give at least one alternative")
    return Part(ast.choice([alt for item in items for alt in _right(item)]))


def weight(share: float | str | Part, item: object) -> Part:
    """An alternative with its weight, `0.3: a` or, with a `let` value's name, `p: a`."""
    if isinstance(share, str):
        found: Expr = Name(_word(share))
    else:
        found = tree(share)
    if not isinstance(found, Number | Name):
        raise SpaceError("a weight is a number or the name of a let value", hint="use 0.3 or 'p'")
    return Part(Choice((Alt(found, tree(item)),)), open=True)


def range(low: float, high: float, by: float | None = None) -> Part:
    """`low..high by step`."""
    if high < low or (by is not None and by <= 0):
        raise SpaceError(f"the range {low}..{high} has no points", hint="low..high by a step > 0")
    step = None if by is None else _finite(by)
    return Part(Range(_finite(low), _finite(high), step))


def ref(name: str) -> Part:
    """`@name` or, for an export, `@name.field`."""
    label, dot, export = name.partition(".")
    if not LABEL.match(label) or (dot and not LABEL.match(export)):
        raise SpaceError(f"{name[:40]!r} names no value", hint="use small letters, digits and _")
    return Part(Value(label, export or None))


def rule(name: str, body: object, *params: str, **defaults: object) -> Decl:
    """`name(params, defaults) = body;`; without either, `name = body;`."""
    return _declared("rule", name, body, params, defaults)


def let(name: str, body: object) -> Decl:
    """`let name = body;`."""
    return _declared("let", name, body, (), {})


def fix(name: str, body: object) -> Decl:
    """`fix name = body;`."""
    return _declared("fix", name, body, (), {})


def space(*decls: Decl, final: object = None) -> Space:
    """Declarations, and a final sentence unless it is None."""
    names = [d.name for d in decls]
    for name in names:
        if names.count(name) > 1:
            raise SpaceError(f"'{name}' is declared twice", hint="rename one of them")
    if not decls and final is None:
        raise SpaceError("the text is empty", hint="give a final sentence")
    return Space(decls, None if final is None else tree(final))


def _declared(
    kind: Literal["rule", "let", "fix"],
    name: str,
    body: object,
    params: Sequence[str],
    defaults: dict[str, object],
) -> Decl:
    header = [Param(_free(p)) for p in params]
    header += [Param(_free(p), tree(d)) for p, d in defaults.items()]
    for param in header:
        if sum(param.name == other.name for other in header) > 1:
            raise SpaceError(f"parameter '{param.name}' stands twice", hint="rename one of them")
    return Decl(kind, _free(name), tuple(header) or None, tree(body))


def _alts(part: Part) -> tuple[Alt, ...]:
    if part.open and isinstance(part.expr, Choice):
        return part.expr.alts
    return (Alt(None, part.expr),)


def _right(item: object) -> tuple[Alt, ...]:
    """One alternative; an open choice of several came in brackets and stays one."""
    if isinstance(item, Part):
        alts = _alts(item)
        return alts if len(alts) == 1 else (Alt(None, item.expr),)
    return (Alt(None, tree(item)),)


def _count(count: object) -> Expr:
    if isinstance(count, tuple) and len(count) in (2, 3):
        return range(*count).expr
    found = tree(count)
    if isinstance(found, Number) and not (isinstance(found.value, int) and found.value >= 1):
        raise SpaceError(f"a part cannot be repeated {found.value} times", hint="use 1, 2 ...")
    if not isinstance(found, Number | Range | Name | Choice):
        raise SpaceError("a count is a number, range, name or choice", hint="write a * (2, 6)")
    return found


def _finite(value: float) -> int | float:
    if not math.isfinite(value) or abs(value) > MAX_NUMBER:
        raise SpaceError(f"the number {value!r} is beyond 1e12", hint="use less")
    return value


def _word(name: str) -> str:
    if not WORD.match(name):
        raise SpaceError(f"{name[:40]!r} is not a word", hint="use letters, digits and _")
    return name


def _free(name: str) -> str:
    if _word(name) in RESERVED:
        raise SpaceError(f"'{name}' is reserved", hint=f"reserved: {' '.join(sorted(RESERVED))}")
    return name


def __getattr__(name: str) -> Part:
    if name.startswith("_"):
        raise AttributeError(name)
    return word(name)
