"""Bindings: every `@name` must be bound on every path of calls that leads to it.

Walks the rules with the set of names that are visible, once for each rule and set. A name bound
in an alternative stays in it, a rule's names stay in the rule, and after a repeat a name is a list.
An argument's text belongs to the caller, who sees its names where the rule surely uses it: a use
of the parameter `f` is noted as the name `>f`, which goes the way of every other name.
"""

from collections.abc import Collection, Mapping
from typing import Literal, TypeAlias

from grammar.ast import (
    Bind,
    Call,
    Choice,
    Decl,
    Expr,
    Name,
    Node,
    Repeat,
    Value,
    children,
)
from grammar.domain import Signature
from grammar.errors import SpaceError, did_you_mean

Bound: TypeAlias = Mapping[str, Literal["one", "list"]]


def check_names(
    start: Expr,
    rules: Mapping[str, Decl],
    signatures: Mapping[str, Signature],
    inputs: Collection[str],
) -> None:
    """Raises: SpaceError at the first name that some path leaves unbound."""
    _Names(rules, signatures).visit(start, dict.fromkeys(inputs, "one"))


class _Names:
    def __init__(self, rules: Mapping[str, Decl], signatures: Mapping[str, Signature]) -> None:
        self.rules, self.signatures = rules, signatures
        self.used: dict[tuple[str, frozenset[tuple[str, str]]], Bound] = {}
        self.params: frozenset[str] = frozenset()

    def visit(self, node: Node, bound: Bound) -> Bound:
        """The names visible after `node`."""
        match node:
            case Value():
                self.value(node, bound)
                return bound
            case Choice(alts):
                for alt in alts:
                    self.visit(alt.body, bound)
                return bound
            case Bind(body, name):
                return {**self.visit(body, bound), name: "one"}
            case Repeat(body):
                inside = self.visit(body, bound)
                fresh = {n: "list" for n in inside if inside[n] != bound.get(n) or n not in bound}
                return {**bound, **fresh}  # type: ignore[dict-item]  # "list" is one of the words
            case Call("items", args):
                for arg in args:
                    self.visit(arg.value, {})
                return bound
            case Call("each", (arg,)):
                inside = self.visit(arg.value, bound)
                return {**bound, **{n: "list" for n in inside if n not in bound}}
            case Name(name) if name in self.params:
                return {**bound, f">{name}": "one"}
            case Name(name) | Call(name, _) if name in self.rules:
                return self.call(node, self.rule(name, bound), bound)
        for child in children(node):
            bound = self.visit(child, bound)
        return bound

    def call(self, node: Node, used: Bound, bound: Bound) -> Bound:
        """The caller's names after a rule's call."""
        found = dict(bound)
        for arg in node.args if isinstance(node, Call) else ():
            after = self.visit(arg.value, bound)
            kind = used.get(f">{arg.name}")
            for name in after:
                if kind is not None and after[name] != bound.get(name):
                    found[name] = "list" if kind == "list" else after[name]
        return found

    def rule(self, name: str, bound: Bound) -> Bound:
        """The parameters that the rule surely uses, as names; none of a rule that is entered."""
        plain = {n: kind for n, kind in bound.items() if not n.startswith(">")}
        key = (name, frozenset(plain.items()))
        if key not in self.used:
            self.used[key] = {}
            decl, outer = self.rules[name], self.params
            self.params = frozenset(p.name for p in decl.params or ())
            after = self.visit(decl.body, plain)
            self.params = outer
            if decl.kind != "let":
                self.used[key] = {n: kind for n, kind in after.items() if n.startswith(">")}
        return self.used[key]

    def value(self, node: Value, bound: Bound) -> None:
        kind = bound.get(node.name)
        if kind is None:
            raise SpaceError(
                f"'@{node.name}' is not bound on every way to here",
                span=node.span,
                hint=did_you_mean(node.name, bound) if bound else "bind it first: part as name",
            )
        if kind == "list" and node.index is None:
            raise SpaceError(
                f"'@{node.name}' is a list after its repeat",
                span=node.span,
                hint=f"write @{node.name}[] for all, @{node.name}[0] or @{node.name}[-1] for one",
            )
        if kind == "one" and node.index is not None:
            raise SpaceError(f"'@{node.name}' is one value, not a list", span=node.span)
