"""Ranges written out: `2..4` as the choice `2 | 3 | 4` that it stands for, so that it has weights.

The points of a range depend on the parameter that it fills. Where a range fills several that make
different points of it, or where it has more than `MOST` points, it stays a range. A choice stands
at the address of its range and counts its alternatives alike, so traces stay as they are.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeAlias

from grammar.ast import Alt, Call, Choice, Decl, Name, Node, Number, Range, Repeat, Space, children
from grammar.domain import Domain, Scalar, Signature
from grammar.roles import COUNT, Roles, Slot
from grammar.values import COUNTS

MOST = 64
Points: TypeAlias = tuple[Scalar, ...]


def written_out(space: Space, signatures: Mapping[str, Signature]) -> Space:
    """The space made of new nodes, with its ranges as choices."""
    grids = _Grids(space, signatures).found

    def put(old: Node, new: Node) -> Node:
        grid = grids.get(id(old), set())
        if len(grid) != 1:
            return new
        (points,) = grid
        if not 1 < len(points) <= MOST:
            return new
        numbers = [Number(p) for p in points if isinstance(p, int | float)]
        return Choice(tuple(Alt(None, n, span=old.span) for n in numbers), span=old.span)

    made = rebuilt(space, put)
    assert isinstance(made, Space)
    return made


def rebuilt(node: Node, put: Callable[[Node, Node], Node]) -> Node:
    """A copy made from below: `put` is given each node and its copy, and says what comes there."""
    changes: dict[str, Any] = {}
    for f in fields(node):
        part = getattr(node, f.name)
        if isinstance(part, Node):
            changes[f.name] = rebuilt(part, put)
        elif isinstance(part, tuple):
            changes[f.name] = tuple(rebuilt(p, put) if isinstance(p, Node) else p for p in part)
    return put(node, replace(node, **changes))


class _Grids:
    """The points that each range of a text may stand for, by the range's identity."""

    def __init__(self, space: Space, signatures: Mapping[str, Signature]) -> None:
        self.decls = {d.name: d for d in space.decls}
        self.signatures = signatures
        self.roles = Roles(self.decls, signatures).roles
        self.found: dict[int, set[Points]] = {}
        self._seen: set[tuple[str, int]] = set()
        for node in (*space.decls, space.final):
            if node is not None:
                self._visit(node, None)

    def _visit(self, node: Node, domain: Domain | None) -> None:
        match node:
            case Range():
                if domain is not None:
                    self._record(node, domain)
            case Choice(alts):
                for alt in alts:
                    self._visit(alt.body, domain)
            case Name(name):
                known = domain is None or name not in self.decls
                if not known and (name, id(domain)) not in self._seen:
                    self._seen.add((name, id(domain)))
                    self._visit(self.decls[name].body, domain)
            case Repeat(body, count):
                self._visit(body, None)
                self._visit(count, COUNTS)
            case Call(name, args):
                for arg in args:
                    for inner in self._domains(name, arg.name):
                        self._visit(arg.value, inner)
            case Decl(_, name, params, body):
                self._visit(body, None)
                for param in params or ():
                    if param.default is not None:
                        for inner in self._domains(name, param.name):
                            self._visit(param.default, inner)
            case _:
                for child in children(node):
                    self._visit(child, None)

    def _domains(self, callee: str, name: str | None) -> list[Domain | None]:
        if callee in self.decls:
            roles = self.roles.get(callee, {}).get(name or "", set())
            return [self._domain(role) for role in roles if role is not None] + [None]
        signature = self.signatures.get(callee)
        return [signature.params.get(name or "") if signature else None]

    def _domain(self, slot: Slot) -> Domain:
        return COUNTS if slot == COUNT else self.signatures[slot.op].params[slot.param]

    def _record(self, node: Range, domain: Domain) -> None:
        try:
            points = domain.grid(node.low, node.high, node.step)
        except ValueError:
            return  # The walk refuses it where it is used.
        self.found.setdefault(id(node), set()).add(points)
