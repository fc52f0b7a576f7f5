"""The normal form of a closed sentence: one text for one architecture, and its id.

Identities leave chains, `id + f` is `residual(f)`, sums stand in canonical order, equal neighbours
fold to `* n`, defaults are left out, a `let` stays only if it is used twice, and names are
`m0 m1 ...` (modules) and `v0 v1 ...` (values) by first use.
"""

import hashlib
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from grammar.ast import (
    Arg,
    Bind,
    Call,
    Decl,
    Expr,
    Name,
    Node,
    Number,
    Repeat,
    Seq,
    Space,
    Sum,
    Value,
    children,
    deep,
    seq,
)
from grammar.domain import Signature
from grammar.show import show
from grammar.values import literal

LONGEST_PERIOD = 64
IDENTITY = Name("id")
T = TypeVar("T", bound=Node)


@dataclass(frozen=True, slots=True)
class Named:
    """A normal form: its tree, what `parse` would make of the text; the text; the id."""

    closed: Space
    text: str
    hash: str


def rewrite(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """`change` applied to every expression, children first; no node keeps its place in a text.

    What does not change is not made anew.
    """
    match expr:
        case Name(name):
            return change(expr if expr.span is None else Name(name))
        case Seq(items):
            new = [rewrite(i, change) for i in items]
            return change(expr if _kept(expr, items, new) else seq(new))
        case Sum(items):
            new = [rewrite(i, change) for i in items]
            return change(expr if _kept(expr, items, new) else Sum(tuple(new)))
        case Repeat(body, count):
            return change(Repeat(rewrite(body, change), count))
        case Bind(body, name):
            return change(Bind(rewrite(body, change), name))
        case Call(name, args):
            made = [_rewritten(a, change) for a in args]
            return change(expr if _kept(expr, args, made) else Call(name, tuple(made)))
        case _:
            return change(expr if expr.span is None else replace(expr, span=None))


def _rewritten(arg: Arg, change: Callable[[Expr], Expr]) -> Arg:
    value = rewrite(arg.value, change)
    return arg if value is arg.value and arg.span is None else Arg(arg.name, value)


def _kept(expr: Node, old: Sequence[Node], new: Sequence[Node]) -> bool:
    return expr.span is None and all(map(operator.is_, old, new))


def normal(closed: Space, signatures: Mapping[str, Signature]) -> Space:
    """The normal form of what `derive` returns (a sentence over `let` modules, no other rules)."""
    assert closed.final is not None
    lets = {d.name: d.body for d in closed.decls}

    def tidy(expr: Expr) -> Expr:
        return rewrite(expr, lambda e: _tidy(e, signatures))

    final, lets = tidy(closed.final), {n: tidy(b) for n, b in lets.items()}
    final, lets = _inline_single(final, lets)
    final, lets = _drop_labels(final, lets)
    final, lets = tidy(final), {n: tidy(b) for n, b in lets.items()}
    final, lets = _rename(final, lets)
    folded = {n: rewrite(b, _fold_chain) for n, b in lets.items()}
    decls = tuple(Decl("let", n, None, b) for n, b in folded.items())
    return Space(decls, rewrite(final, _fold_chain))


def text_of(closed: Space, signatures: Mapping[str, Signature]) -> tuple[str, str]:
    """The normal form on one line, and its id: the first 16 hex digits of its sha256."""
    found = named(closed, signatures)
    return found.text, found.hash


def named(closed: Space, signatures: Mapping[str, Signature]) -> Named:
    """The normal form in all its forms."""
    with deep():
        tree = normal(closed, signatures)
        text = show(tree).replace("\n", " ")
    return Named(tree, text, hashlib.sha256(text.encode()).hexdigest()[:16])


# -- one expression ------------------------------------------------------------------------------


def _tidy(expr: Expr, signatures: Mapping[str, Signature]) -> Expr:
    match expr:
        case Call(name, ()):
            return Name(name)
        case Seq(items):
            kept = _joined([i for i in items if i != IDENTITY], signatures)
            return seq(kept) if kept else IDENTITY
        case Sum(items):
            return _tidy_sum(items)
        case Call("add", args) if all(a.name is None for a in args):
            return _tidy_sum(tuple(a.value for a in args))
        case Call("each", args) if all(a.value == args[0].value for a in args):
            return Call("each", args[:1])
        case Call(name, args) if name in signatures:
            return _tidy_op(name, args, signatures[name])
    return expr


def _joined(items: list[Expr], signatures: Mapping[str, Signature]) -> list[Expr]:
    """`fork(a, b) >> add` is `add(a, b)`, and so for each op of any number of values."""
    found: list[Expr] = []
    for item in items:
        before = found[-1] if found else None
        call = Call(item.id, ()) if isinstance(item, Name) else item
        known = signatures.get(call.name) if isinstance(call, Call) else None
        if isinstance(call, Call) and known and known.variadic:
            plain = all(a.name or _is_flag(a, known) for a in call.args)
            if plain and isinstance(before, Call) and before.name == "fork":
                found[-1] = _tidy(Call(call.name, before.args + call.args), signatures)
                continue
        found.append(item)
    return found


def _tidy_sum(items: tuple[Expr, ...]) -> Expr:
    flat: list[Expr] = []
    for item in items:
        flat.extend(item.items if isinstance(item, Sum) else (item,))
    if len(flat) == 2 and IDENTITY in flat:
        other = flat[1] if flat[0] == IDENTITY else flat[0]
        return Call("residual", (Arg(None, other),))
    if not any(_binds(item) for item in flat):
        flat.sort(key=show)
    return Sum(tuple(flat))


def _binds(node: Node) -> bool:
    return isinstance(node, Bind) or any(_binds(child) for child in children(node))


def _tidy_op(name: str, args: tuple[Arg, ...], signature: Signature) -> Expr:
    """Inputs by name, parameters in table order, defaults left out, a set flag by its name."""
    positional = [a for a in args if a.name is None and not _is_flag(a, signature)]
    given = {a.name: a.value for a in args if a.name is not None}
    given.update({a.value.id: Name("true") for a in args if _is_flag(a, signature)})  # type: ignore[union-attr]  # a flag is a Name
    kept: list[Arg] = list(positional)
    kept += [Arg(n, given[n]) for n in signature.inputs if n in given]
    for param, domain in signature.params.items():
        if param not in given:
            continue
        value = _plain(given[param])
        if value != literal(domain.default):  # type: ignore[arg-type]  # a required one equals none
            kept.append(Arg(None, Name(param)) if value == Name("true") else Arg(param, value))
    return Call(name, tuple(kept)) if kept else Name(name)


def _plain(value: Expr) -> Expr:
    """Whole floats stay floats: `2.0` and `2` come from one domain, so they print alike."""
    if isinstance(value, Number) and isinstance(value.value, float) and value.value.is_integer():
        return Number(float(value.value))
    return value


def _is_flag(arg: Arg, signature: Signature) -> bool:
    return arg.name is None and isinstance(arg.value, Name) and arg.value.id in signature.params


# -- names ---------------------------------------------------------------------------------------


def _count(node: Node, names: Mapping[str, object], found: dict[str, int], times: int = 1) -> None:
    """Adds the uses of `names`; what stands in copies (`* n`, `each`, `cross`) is used twice."""
    if isinstance(node, Name) and node.id in names:
        found[node.id] = found.get(node.id, 0) + times
    if isinstance(node, Repeat) or (isinstance(node, Call) and node.name in ("each", "cross")):
        times = 2
    for child in children(node):
        _count(child, names, found, times)


def _inline_single(final: Expr, lets: dict[str, Expr]) -> tuple[Expr, dict[str, Expr]]:
    """A `let` used once is its body."""
    while True:
        uses: dict[str, int] = {}
        for root in (final, *lets.values()):
            _count(root, lets, uses)
        once = next((n for n in lets if uses.get(n, 0) < 2), None)
        if once is None:
            return final, lets
        body = lets[once]
        rest = {n: b for n, b in lets.items() if n != once}

        def put(expr: Expr, name: str = once, body: Expr = body) -> Expr:
            return body if expr == Name(name) else expr

        final = rewrite(final, put)
        lets = {n: rewrite(b, put) for n, b in rest.items()}


def _read(node: Node, found: dict[str, None]) -> None:
    if isinstance(node, Value):
        found.setdefault(node.name)
    for child in children(node):
        _read(child, found)


def _bound(node: Node, found: dict[str, None]) -> None:
    for child in children(node):
        _bound(child, found)
    if isinstance(node, Bind):
        found.setdefault(node.name)


def _drop_labels(final: Expr, lets: dict[str, Expr]) -> tuple[Expr, dict[str, Expr]]:
    used: dict[str, None] = {}
    for root in (final, *lets.values()):
        _read(root, used)

    def drop(expr: Expr) -> Expr:
        return expr.body if isinstance(expr, Bind) and expr.name not in used else expr

    return rewrite(final, drop), {n: rewrite(b, drop) for n, b in lets.items()}


def _rename(final: Expr, lets: dict[str, Expr]) -> tuple[Expr, dict[str, Expr]]:
    order: dict[str, None] = {}
    modules: dict[str, str] = {}

    def visit(node: Node) -> None:
        if isinstance(node, Name) and node.id in lets and node.id not in modules:
            modules[node.id] = f"m{len(modules)}"
            visit(lets[node.id])
        for child in children(node):
            visit(child)
        if isinstance(node, Bind):
            order.setdefault(node.name)

    visit(final)
    labels = {name: f"v{i}" for i, name in enumerate(order)}

    def rename(expr: Expr) -> Expr:
        match expr:
            case Name(name) if name in modules:
                return Name(modules[name])
            case Value(name) if name in labels:
                return replace(expr, name=labels[name])
            case Bind(body, name):
                return Bind(body, labels[name])
        return expr

    fresh = {modules[n]: rewrite(lets[n], rename) for n in modules}
    return rewrite(final, rename), fresh


# -- folding -------------------------------------------------------------------------------------


def _fold_chain(expr: Expr) -> Expr:
    """Equal neighbours folded to `* n`: at each place the longest run, then the shortest body."""
    if not isinstance(expr, Seq):
        return expr
    keys: dict[Expr, int] = {}
    ids = [keys.setdefault(item, len(keys)) for item in expr.items]
    found: list[Expr] = []
    i = 0
    while i < len(ids):
        period, count = _best_run(ids, i)
        if count == 1:
            found.append(expr.items[i])
        else:
            body = _fold_chain(seq(expr.items[i : i + period]))
            found.append(Repeat(body, Number(count)))
        i += period * count
    return seq(found)


def _best_run(ids: list[int], i: int) -> tuple[int, int]:
    best = (1, 1)
    for period in range(1, min(LONGEST_PERIOD, (len(ids) - i) // 2) + 1):
        count = 1
        while ids[i + count * period : i + (count + 1) * period] == ids[i : i + period]:
            count += 1
        if count > 1 and period * count > best[0] * best[1]:
            best = (period, count)
    return best
