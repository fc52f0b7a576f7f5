"""Parse: text to tree. Knows the syntax and its limits, no ops."""

import math
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grammar import ast
from grammar.ast import Alt, Arg, Call, Decl, Expr, Name, Node, Number, Param, Space
from grammar.errors import Source, SpaceError, Span
from grammar.faults import Stop, bad_character, syntax_error
from grammar.forms import RESERVED

if TYPE_CHECKING:
    from lark import Lark

MAX_BYTES = 256 * 1024
MAX_NESTING = 200
MAX_DEPTH = 1_000
MAX_NUMBER = 1e12
CLOSES = {")": "(", "]": "[", "}": "{"}
LEXEME = re.compile(r'#[^\n]*|"(?:[^"\\\n]|\\.)*"|[()\[\]{}]|"|[^#"()\[\]{}]+')


@cache
def _lark() -> "Lark":
    from lark import Lark

    grammar = (Path(__file__).parent / "arch.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", maybe_placeholders=True, propagate_positions=True)


def parse(text: str, name: str = "<text>") -> Space:
    """The tree of a text; `name` is shown in errors.

    Raises: SpaceError for syntax, reserved words, and texts beyond the limits of the language.
    """
    source = Source(name, text)
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise SpaceError(f"the text is larger than {MAX_BYTES // 1024} KB")
    _brackets(source)
    with ast.deep():
        space = _build(source)
    _depth(space, source)
    if not space.decls and space.final is None:
        raise SpaceError("the text is empty", hint="write an architecture such as: linear(dim=8)")
    return space


# -- before the parser ---------------------------------------------------------------------------


def _brackets(source: Source) -> None:
    open_: list[tuple[str, int]] = []
    for match in LEXEME.finditer(source.text):
        word, at = match[0], match.start()
        if word == '"':
            raise SpaceError(
                "this text in quotes does not end on its line",
                span=Span(source, at, at + 1),
                hint='close it with "',
            )
        if word in "([{" and len(word) == 1:
            open_.append((word, at))
            if len(open_) > MAX_NESTING:
                raise SpaceError(
                    f"brackets nest deeper than {MAX_NESTING}",
                    span=Span(source, at, at + 1),
                    hint="give the inner part a name: part = ...;",
                )
        elif word in CLOSES:
            if not open_ or open_[-1][0] != CLOSES[word]:
                fact = f"'{word}' closes nothing"
                if open_:
                    fact = f"'{word}' cannot close '{open_[-1][0]}'"
                raise SpaceError(
                    fact, span=Span(source, at, at + 1), hint=f"remove it, or open '{CLOSES[word]}'"
                )
            open_.pop()
    if open_:
        word, at = open_[-1]
        raise SpaceError(
            f"unclosed '{word}'",
            span=Span(source, at, at + 1),
            hint=f"add '{next(c for c, o in CLOSES.items() if o == word)}'",
        )


def _depth(space: Space, source: Source) -> None:
    stack: list[tuple[Node, int]] = [(space, 0)]
    while stack:
        node, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise SpaceError(
                f"parts nest deeper than {MAX_DEPTH}",
                span=node.span,
                hint="give the inner part a name: part = ...;",
            )
        stack.extend((child, depth + 1) for child in ast.children(node))


# -- syntax errors -------------------------------------------------------------------------------


def _explain(source: Source, error: Any) -> SpaceError:
    from lark import UnexpectedCharacters

    at = error.pos_in_stream if error.pos_in_stream is not None else len(source.text)
    if isinstance(error, UnexpectedCharacters):
        return bad_character(source, at)
    token, accepts = error.token, frozenset(error.accepts or error.expected)
    if token.type == "$END":
        return syntax_error(source, Stop("", "$END", len(source.text), accepts))
    return syntax_error(source, Stop(str(token), token.type, token.start_pos, accepts))


# -- the tree ------------------------------------------------------------------------------------


def _build(source: Source) -> Space:
    from lark import Tree
    from lark.exceptions import UnexpectedInput

    try:
        tree: Tree[Any] = _lark().parse(source.text)
    except UnexpectedInput as error:
        raise _explain(source, error) from None
    return _Builder(source).space(tree)


class _Builder:
    """Turns lark's tree into ours; brackets are at most 200 deep, so recursion is safe."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def span(self, tree: Any) -> Span | None:
        meta = tree.meta if hasattr(tree, "meta") else tree
        start, end = getattr(meta, "start_pos", None), getattr(meta, "end_pos", None)
        return None if start is None or end is None else Span(self.source, start, end)

    def space(self, tree: Any) -> Space:
        decls = tuple(self.decl(c) for c in tree.children if c is not None and c.data != "alts")
        finals = [self.alts(c) for c in tree.children if c is not None and c.data == "alts"]
        seen: dict[str, Decl] = {}
        for decl in decls:
            if decl.name in seen:
                raise SpaceError(
                    f"'{decl.name}' is declared twice", span=decl.span, hint="rename one of them"
                )
            seen[decl.name] = decl
        return Space(decls, finals[0] if finals else None)

    def free(self, token: Any, what: str) -> str:
        """A name that the user may give. Raises: SpaceError for a reserved word."""
        if str(token) in RESERVED:
            raise SpaceError(
                f"'{token}' is reserved and cannot name a {what}",
                span=self.span(token),
                hint=f"reserved: {' '.join(sorted(RESERVED))}",
            )
        return str(token)

    def decl(self, tree: Any) -> Decl:
        head, body = tree.children[0].children
        params: tuple[Param, ...] | None = None
        if hasattr(head, "data"):
            name = self.free(head.children[0], "rule")
            params = tuple(self.param(c) for c in head.children[1:] if c is not None)
            names = [p.name for p in params]
            for param in params:
                if names.count(param.name) > 1:
                    raise SpaceError(
                        f"parameter '{param.name}' stands twice",
                        span=param.span,
                        hint="rename one of them",
                    )
        else:
            name = self.free(head, "rule")
        kind = tree.data
        return Decl(kind, name, params, self.alts(body), span=self.span(head))

    def param(self, tree: Any) -> Param:
        if hasattr(tree, "data") and tree.data == "keyword":
            name = self.free(tree.children[0], "parameter")
            return Param(name, self.alts(tree.children[1]), span=self.span(tree))
        inner = self.expr(tree)
        if not isinstance(inner, Name):
            raise SpaceError(
                "a parameter is a name, or name=default", span=self.span(tree), hint="f(a, b=2)"
            )
        if inner.id in RESERVED:
            raise SpaceError(
                f"'{inner.id}' is reserved and cannot name a parameter",
                span=inner.span,
                hint=f"reserved: {' '.join(sorted(RESERVED))}",
            )
        return Param(inner.id, None, span=inner.span)

    def alts(self, tree: Any) -> Expr:
        return ast.choice([self.alt(c) for c in tree.children], span=self.span(tree))

    def alt(self, tree: Any) -> Alt:
        weight, body = tree.children
        found: Number | Name | None = None
        if weight is not None:
            token = weight.children[0]
            is_number = token.type == "NUMBER"
            span = self.span(token)
            found = (
                Number(self.number(token), span=span) if is_number else Name(str(token), span=span)
            )
        return Alt(found, self.expr(body), span=self.span(tree))

    def number(self, token: Any) -> int | float:
        """Raises: SpaceError for numbers beyond the limits."""
        text = str(token)
        value = float(text)
        if not math.isfinite(value) or abs(value) > MAX_NUMBER:
            raise SpaceError(
                f"the number {text[:30]} is beyond 1e12", span=self.span(token), hint="use less"
            )
        # Through float: int() refuses texts of thousands of digits, such as leading zeros.
        return int(value) if re.fullmatch(r"-?\d+", text) else value

    def expr(self, tree: Any) -> Expr:
        if not hasattr(tree, "data"):
            return Name(str(tree), span=self.span(tree))
        kids, span = tree.children, self.span(tree)
        match str(tree.data):
            case "seq":
                return ast.seq([self.expr(c) for c in kids], span=span)
            case "sum":
                return ast.total([self.expr(c) for c in kids], span=span)
            case "repeat" | "bind":
                return self.postfix(tree)
            case "number":
                return Number(self.number(kids[0]), span=span)
            case "string":
                return self.string(kids[0])
            case "name":
                return Name(str(kids[0]), span=span)
            case "choice":
                return self.alts(kids[0])
            case "value":
                return self.value(kids, span, tree)
            case "range":
                low, high, step = (None if k is None else self.number(k) for k in kids)
                assert low is not None
                assert high is not None
                if high < low:
                    hint = f"write {high!r}..{low!r}"
                    raise SpaceError("this range runs backwards", span=span, hint=hint)
                if step is not None and step <= 0:
                    raise SpaceError("a range's step is positive", span=span, hint="by 1")
                return ast.Range(low, high, step, span=span)
            case "list":
                return ast.ListOf(tuple(self.alts(c) for c in kids if c is not None), span=span)
            case "call":
                return self.call(kids, span)
        raise AssertionError(tree.data)

    def string(self, token: Any) -> ast.String:
        text = re.sub(r"\\(.)", r"\1", str(token)[1:-1])
        return ast.String(text, span=self.span(token))

    def postfix(self, tree: Any) -> Expr:
        """`a * 2 as x * 3`: a chain that leans left, unwound without recursion."""
        chain = []
        while hasattr(tree, "data") and tree.data in ("repeat", "bind"):
            chain.append(tree)
            tree = tree.children[0]
        found = self.expr(tree)
        for step in reversed(chain):
            if step.data == "repeat":
                found = ast.Repeat(found, self.count(step.children[1]), span=self.span(step))
            else:
                name = self.free(step.children[1], "value")
                found = ast.Bind(found, name, span=self.span(step))
        return found

    def count(self, tree: Any) -> Expr:
        inner = tree.children[0]
        if getattr(inner, "type", None) == "NUMBER":
            value = self.number(inner)
            if not isinstance(value, int) or value < 1:
                raise SpaceError(
                    f"a part cannot be repeated {inner} times",
                    span=self.span(inner),
                    hint="a whole number from 1 on",
                )
            return Number(value, span=self.span(inner))
        return self.expr(inner)

    def value(self, kids: Any, span: Span | None, tree: Any) -> ast.Value:
        name, _, field = str(kids[0])[1:].partition(".")
        index: Any = None
        if span is not None and self.source.text[span.start : span.end].rstrip().endswith("]"):
            index = "all" if kids[1] is None else self.number(kids[1])
            if isinstance(index, float):
                raise SpaceError(
                    "an index is a whole number",
                    span=span,
                    hint=f"write @{name}[0], @{name}[-1] or @{name}[]",
                )
        return ast.Value(name, field or None, index, span=span)

    def call(self, kids: Any, span: Span | None) -> Call:
        args: list[Arg] = []
        for kid in kids[1:]:
            if kid is None:
                continue
            if hasattr(kid, "data") and kid.data == "keyword":
                name = str(kid.children[0])
                if any(a.name == name for a in args):
                    raise SpaceError(
                        f"'{name}' is given twice",
                        span=self.span(kid.children[0]),
                        hint="keep one of them",
                    )
                args.append(Arg(name, self.alts(kid.children[1]), span=self.span(kid)))
            else:
                args.append(Arg(None, self.expr(kid), span=self.span(kid)))
        return Call(str(kids[0]), tuple(args), span=span)
