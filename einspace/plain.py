"""What kind of space it is, told from its text: which shortcuts membership may take."""

from collections.abc import Iterator, Mapping

from grammar.ast import (
    Alt,
    Bind,
    Call,
    Choice,
    ListOf,
    Name,
    Node,
    Number,
    Range,
    Seq,
    Space,
    String,
    Value,
    children,
)
from ops.spec import Op

VALUES = Number | Range | String | ListOf | Choice | Alt | Seq


def plain(space: Space) -> bool:
    """Whether values are used where they flow and every op has a module of its own: neither names,
    nor list axes, nor parts under `let` or `tied`."""
    if any(not isinstance(n, VALUES) for d in space.decls if d.kind == "let" for n in _all(d.body)):
        return False
    for node in _all(space):
        if isinstance(node, Bind | Value):
            return False
        if isinstance(node, Call) and node.name in ("items", "tied"):
            return False
    return True


def copies_alike(space: Space, table: Mapping[str, Op]) -> bool:
    """Whether each `each(same(f))` maps what one op gave out, and one op takes all that it makes:
    then its parts are alike in any architecture of the space."""
    between: set[int] = set()
    for node in _all(space):
        items = node.items if isinstance(node, Seq) else ()
        for before, item, after in zip(items, items[1:], items[2:], strict=False):
            if _only_ops(before, table) and _only_ops(after, table):
                between.add(id(item))
    return all(id(node) in between for node in _all(space) if _maps_same(node))


def _maps_same(node: Node) -> bool:
    if not isinstance(node, Call) or node.name != "each" or len(node.args) != 1:
        return False
    inner = node.args[0].value
    return isinstance(inner, Call) and inner.name == "same"


def _only_ops(expr: Node, table: Mapping[str, Op]) -> bool:
    if isinstance(expr, Choice):
        return all(_only_ops(alt.body, table) for alt in expr.alts)
    if isinstance(expr, Name):
        return expr.id in table and expr.id != "id"
    return isinstance(expr, Call) and expr.name in table and not _parts(expr, table)


def _parts(call: Call, table: Mapping[str, Op]) -> bool:
    flags = table[call.name].params
    return any(
        a.name is None and not (isinstance(a.value, Name) and a.value.id in flags)
        for a in call.args
    )


def _all(root: Node) -> Iterator[Node]:
    stack: list[Node] = [root]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(children(node))
