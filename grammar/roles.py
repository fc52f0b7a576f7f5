"""Roles: as what a rule's parameters are used, as a part or as which parameter of which op.

The same text may stand for a part of an architecture or for a value; where it is used decides.
A rule's parameter has all roles in which the rule's body uses it, and roles travel from callee to
caller, so they are collected until nothing is new.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from grammar.ast import (
    Arg,
    Call,
    Choice,
    Decl,
    ListOf,
    Name,
    Node,
    Number,
    Range,
    Repeat,
    String,
    Value,
    children,
)
from grammar.domain import Flag, Signature


@dataclass(frozen=True, slots=True)
class Slot:
    """A parameter of an op that a text fills; `*` is the count of a repeat."""

    op: str
    param: str

    def __str__(self) -> str:
        return "of '*'" if self.op == "*" else f"of '{self.op}'"


Role: TypeAlias = Slot | None  # None: a part of an architecture
PART: Role = None
COUNT = Slot("*", "count")


@dataclass(slots=True)
class Roles:
    """Rule name -> parameter -> the roles it has."""

    rules: Mapping[str, Decl]
    signatures: Mapping[str, Signature]
    roles: dict[str, dict[str, set[Role]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ruled = {n: d for n, d in self.rules.items() if d.params}
        self.roles = {n: {p.name: set() for p in d.params or ()} for n, d in ruled.items()}
        callers: dict[str, set[str]] = {}
        for name, decl in ruled.items():
            for node in _nodes(decl.body):
                if isinstance(node, Call) and node.name in ruled:
                    callers.setdefault(node.name, set()).add(name)
        todo = deque(ruled)
        while todo:
            name = todo.popleft()
            before = sum(map(len, self.roles[name].values()))
            self._collect(ruled[name].body, PART, self.roles[name])
            if sum(map(len, self.roles[name].values())) > before:
                todo.extend(callers.get(name, ()))

    def _collect(self, expr: Node, role: Role, found: dict[str, set[Role]]) -> None:
        match expr:
            case Name(name) if name in found:
                found[name].add(role)
            case Choice(alts):
                for alt in alts:
                    self._collect(alt.body, role, found)
            case Repeat(body, count):
                self._collect(body, PART, found)
                self._collect(count, COUNT, found)
            case Call(name, args):
                if name in found:
                    found[name].add(role)
                for arg in args:
                    for inner in self._roles_of(name, arg):
                        self._collect(arg.value, inner, found)
            case ListOf() | Number() | String() | Range() | Value():
                return
            case _:
                for child in children(expr):
                    self._collect(child, PART, found)

    def _roles_of(self, callee: str, arg: Arg) -> Sequence[Role]:
        if callee in self.rules:
            return tuple(self.roles.get(callee, {}).get(arg.name or "", ()))
        signature = self.signatures.get(callee)
        if signature and arg.name in signature.params:
            return (Slot(callee, arg.name),)
        if signature and arg.name is None and isinstance(arg.value, Name):
            is_flag = isinstance(signature.params.get(arg.value.id), Flag)
            return () if is_flag else (PART,)
        return (PART,)


def _nodes(node: Node) -> Iterator[Node]:
    stack = [node]
    while stack:
        item = stack.pop()
        yield item
        stack.extend(children(item))
