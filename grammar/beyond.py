"""What the exact sums do not cover, told from the text of a space before they are made.

A name bound in the argument of a rule and read by the caller would have to leave the argument; a
`head` in `outputs` aims at its own output. The plain walk knows both, the sums do not yet.
"""

from collections.abc import Iterator

from grammar.ast import Bind, Call, Name, Node, Space, Value, children
from grammar.errors import SpaceError


class NotSummed(SpaceError):
    """The space has a part that exact sums do not cover; draws are walked, figures estimated."""


def beyond(space: Space) -> Node | None:
    """The first part that exact sums do not cover, or None."""
    rules = {d.name for d in space.decls}
    nodes = list(_below(space))
    heads = any(isinstance(n, Name | Call) and _name(n) == "head" for n in nodes)
    for node in nodes:
        if not isinstance(node, Call):
            continue
        if node.name == "outputs" and heads:
            return node
        if node.name in rules and any(_escapes(a, nodes) for a in node.args):
            return node
    return None


def _escapes(argument: Node, nodes: list[Node]) -> bool:
    inside = list(_below(argument))
    for bound in (n.name for n in inside if isinstance(n, Bind)):
        if _reads(bound, nodes) > _reads(bound, inside):
            return True
    return False


def _reads(name: str, nodes: list[Node]) -> int:
    return sum(isinstance(n, Value) and n.name == name for n in nodes)


def _name(node: Name | Call) -> str:
    return node.id if isinstance(node, Name) else node.name


def _below(node: Node) -> Iterator[Node]:
    stack: list[Node] = [node]
    while stack:
        item = stack.pop()
        yield item
        stack.extend(children(item))
