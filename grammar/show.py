"""Show: tree to canonical text, so that `parse(show(x)) == x`.

Braces and parentheses stand only where they are needed: a choice needs braces inside an expression,
a lower operator needs parentheses inside a higher one.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence

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
    Node,
    Number,
    Param,
    Range,
    Repeat,
    Seq,
    Space,
    String,
    Sum,
    Value,
    deep,
)
from grammar.parse import parse

COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|#[^\n]*')
FREE, FLOW, TERM, ATOM = range(4)  # how tightly the surroundings bind


def show(node: Node) -> str:
    """The canonical text of any node."""
    with deep():
        return _node(node)


def _node(node: Node) -> str:
    match node:
        case Space(decls, final):
            lines = [_node(d) for d in decls]
            return "\n".join(lines if final is None else [*lines, _expr(final, FREE)])
        case Decl(kind, name, params, body):
            head = "" if kind == "rule" else f"{kind} "
            inside = "" if params is None else f"({', '.join(map(_node, params))})"
            return f"{head}{name}{inside} = {_expr(body, FREE)};"
        case Param(name, default):
            return name if default is None else f"{name}={_expr(default, FREE)}"
        case Arg(name, value):
            return _expr(value, FLOW) if name is None else f"{name}={_expr(value, FREE)}"
        case Alt(weight, body):
            return (f"{_node(weight)}: " if weight is not None else "") + _expr(body, FLOW)
    return _expr(node, FREE)  # type: ignore[arg-type]  # what is left are expressions


def _number(value: int | float) -> str:
    return repr(value)


def _expr(expr: Expr, around: int) -> str:
    match expr:
        case Number(value):
            return _number(value)
        case String(value):
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
        case Name(name):
            return name
        case Value(name, field, index):
            place = "" if index is None else "[]" if index == "all" else f"[{index}]"
            return f"@{name}" + (f".{field}" if field else "") + place
        case Range(low, high, step):
            by = "" if step is None else f" by {_number(step)}"
            return f"{_number(low)}..{_number(high)}{by}"
        case ListOf(items):
            return f"[{', '.join(_expr(i, FREE) for i in items)}]"
        case Call(name, args):
            return f"{name}({', '.join(map(_node, args))})"
        case Repeat(body, count):
            return f"{_expr(body, ATOM)} * {_expr(count, ATOM)}"
        case Bind(body, name):
            return f"{_expr(body, ATOM)} as {name}"
        case Seq(items):
            text = " >> ".join(_expr(i, TERM) for i in items)
            return f"({text})" if around >= TERM else text
        case Sum(items):
            text = " + ".join(_expr(i, ATOM) for i in items)
            return f"({text})" if around >= ATOM else text
        case Choice(alts):
            text = " | ".join(_node(a) for a in alts)
            return text if around == FREE else f"{{{text}}}"
    raise AssertionError(expr)


def fmt(text: str, name: str = "<text>") -> str:
    """Canonical form of a text. Every comment stays, on lines of its own before its declaration.

    Raises: SpaceError.
    """
    space = parse(text, name)
    starts = [d.span.start for d in space.decls if d.span]
    ends = [d.body.span.end for d in space.decls if d.body.span]
    if space.final is not None and space.final.span:
        starts.append(space.final.span.start)
        ends.append(space.final.span.end)
    comments: list[list[str]] = [[] for _ in range(len(starts) + 1)]
    for match in COMMENT.finditer(text):
        if match[0].startswith("#"):
            comments[_owner(text, match.start(), starts, ends)].append(match[0].rstrip())
    parts = [show(d) for d in space.decls]
    if space.final is not None:
        parts.append(show(space.final))
    lines = [line for notes, part in zip(comments, parts, strict=False) for line in (*notes, part)]
    return "\n".join([*lines, *comments[-1]])


def _owner(text: str, at: int, starts: Sequence[int], ends: Sequence[int]) -> int:
    """Which part a comment belongs to: the one it stands in or behind, else the next one."""
    next_ = bisect_right(starts, at)
    if next_ and (at < ends[next_ - 1] or "\n" not in text[ends[next_ - 1] : at]):
        return next_ - 1
    return next_
