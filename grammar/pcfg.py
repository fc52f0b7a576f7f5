"""Load checks: what can be known of a space before anything is derived.

Names, parameters, domains, weights, bindings, reachability and the two radii of the expectation
matrix E, where E[a, b] is the expected number of uses of rule b in one use of rule a. The spectral
radius of E below 1 means finite expected derivations (the grammar is *proper*); the same with every
copy of `same tied each *` counted tells whether the materialised size is finite too.
Source: Booth & Thompson 1973; Ericsson et al. 2024, arXiv:2405.20838, section 3.7.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from grammar.ast import (
    Call,
    Choice,
    Decl,
    Expr,
    Name,
    Node,
    Number,
    Space,
    children,
    deep,
)
from grammar.calls import check_calls
from grammar.domain import Signature
from grammar.errors import SpaceError, did_you_mean
from grammar.forms import FORMS
from grammar.radius import radii
from grammar.scope import check_names


@dataclass(frozen=True, slots=True)
class Checked:
    """A space that passed: its sentence, its rules and what the expectation matrix says."""

    space: Space
    signatures: Mapping[str, Signature]
    start: Expr
    rules: Mapping[str, Decl]
    radius: float
    materialised: float
    warnings: tuple[str, ...] = ()

    @property
    def proper(self) -> bool:
        return self.radius < 1


def with_values(space: Space, values: Mapping[str, float]) -> Space:
    """The space with `let` values replaced. Raises: SpaceError for an unknown name."""
    lets = [d.name for d in space.decls if d.kind == "let"]
    for name in values:
        if name not in lets:
            raise SpaceError(f"there is no 'let {name}'", hint=did_you_mean(name, lets))

    def put(decl: Decl) -> Decl:
        if decl.kind != "let" or decl.name not in values:
            return decl
        value = values[decl.name]
        return replace(decl, body=Number(int(value) if value == int(value) else value))

    return replace(space, decls=tuple(put(d) for d in space.decls))


# -- the check -----------------------------------------------------------------------------------


def check_space(
    space: Space, signatures: Mapping[str, Signature], inputs: Collection[str] = ()
) -> Checked:
    """Everything that can be refused without deriving. Raises: SpaceError with place and hint."""
    with deep():
        return _check(space, signatures, inputs)


def _check(space: Space, signatures: Mapping[str, Signature], inputs: Collection[str]) -> Checked:
    rules = {d.name: d for d in space.decls}
    for decl in space.decls:
        for name, span in ((decl.name, decl.span), *((p.name, p.span) for p in decl.params or ())):
            if name in signatures or name in FORMS:
                raise SpaceError(
                    f"'{name}' is the name of an op or form", span=span, hint="rename it"
                )
    start = _start(space)
    lets = {d.name: d.body for d in space.decls if d.kind == "let"}
    check_calls(start, rules, signatures, lets)
    _reachable(start, rules)
    _productive(rules, start)
    _no_shared_recursion(rules)
    check_names(start, rules, signatures, inputs)
    radius, materialised, guilty = radii(rules, lets, start)
    if radius >= 1 - 1e-9:
        decl = rules[guilty]
        raise SpaceError(
            f"the rule '{guilty}' grows without end: it leads to {radius:.3f} copies of itself",
            span=decl.span,
            hint="give the alternatives without recursion more weight, so that it falls below 1",
        )
    notes: tuple[str, ...] = ()
    if materialised >= 1:
        notes = (f"with copies counted the radius is {materialised:.3f}: draw with --max-nodes",)
    return Checked(space, signatures, start, rules, radius, materialised, notes)


def _start(space: Space) -> Expr:
    if space.final is not None:
        return space.final
    for decl in space.decls:
        if decl.kind == "rule" and not decl.params:
            return Name(decl.name, span=decl.span)
    raise SpaceError("nothing to derive", hint="end with a sentence, or write a rule: net = ...;")


# -- reachability --------------------------------------------------------------------------------


def _names(node: Node) -> Iterator[tuple[str, Node]]:
    stack = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, Name):
            yield item.id, item
        elif isinstance(item, Call):
            yield item.name, item
        stack.extend(children(item))


def _reachable(start: Expr, rules: Mapping[str, Decl]) -> None:
    seen: set[str] = set()
    queue: list[Node] = [start]
    while queue:
        for name, _ in _names(queue.pop()):
            if name in rules and name not in seen:
                seen.add(name)
                queue.append(rules[name])
    for name, decl in rules.items():
        if name not in seen:
            raise SpaceError(
                f"'{name}' is never used",
                span=decl.span,
                hint="remove it, or use it; without a final sentence the first rule is the start",
            )


def _productive(rules: Mapping[str, Decl], start: Expr) -> None:
    """Every rule must be able to end."""
    good: set[str] = set()

    def ends(node: Node) -> bool:
        if isinstance(node, Choice):
            return any(ends(alt.body) for alt in node.alts)
        if isinstance(node, Name) and node.id in rules and node.id not in good:
            return False
        if isinstance(node, Call) and node.name in rules and node.name not in good:
            return False
        return all(ends(child) for child in children(node))

    while True:
        more = [n for n, d in rules.items() if n not in good and ends(d.body)]
        if not more:
            break
        good.update(more)
    for name, decl in rules.items():
        if name not in good:
            raise SpaceError(
                f"the rule '{name}' can never end",
                span=decl.span,
                hint="give it an alternative that does not lead back to it",
            )


def _no_shared_recursion(rules: Mapping[str, Decl]) -> None:
    for name, decl in rules.items():
        if decl.kind == "rule":
            continue
        seen: set[str] = set()
        queue = [decl]
        while queue:
            for found, node in _names(queue.pop().body):
                if found == name:
                    raise SpaceError(f"'{decl.kind} {name}' reaches itself", span=node.span)
                if found in rules and found not in seen:
                    seen.add(found)
                    queue.append(rules[found])
