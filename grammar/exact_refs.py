"""What a text may touch, read from the text alone: so that a memo key holds that and no more.

`Refs` over-approximates; saying too much costs memory, never correctness. `floor` is a lower bound
on the nodes of a part; it bounds what its neighbours may take and makes left recursion end.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from grammar.ast import (
    Alt,
    Bind,
    Call,
    Choice,
    Decl,
    Expr,
    Name,
    Node,
    Number,
    Range,
    Repeat,
    Sum,
    Value,
    children,
)
from grammar.domain import Signature
from grammar.forms import FORMS

ROUNDS = 1_000
ENDLESS = 1 << 40


@dataclass(frozen=True, slots=True)
class Refs:
    """What a text names itself (`names`), the declarations it reaches through calls, the `@names`
    read in it and below, the names it may leave bound, and whether it has a `same` or `tied` that
    means copies made further out."""

    names: frozenset[str]
    decls: frozenset[str]
    reads: frozenset[str]
    binds: frozenset[str]
    anchored: bool


class Static:
    """Facts of a space's texts, computed once a node. Nodes are told apart by identity."""

    def __init__(self, decls: Mapping[str, Decl], signatures: Mapping[str, Signature]) -> None:
        self.decls, self.signatures = decls, signatures
        self._refs: dict[int, Refs] = {}
        self._kept: list[Node] = []
        self._direct = {n: self._own(d.body) for n, d in decls.items()}
        self._reach = {n: self._reached(n) for n in decls}
        self.recursive = frozenset(n for n in decls if n in self._reach[n])
        self._floors = dict.fromkeys(self.recursive, ENDLESS)
        self._settle_floors()

    # -- what is touched ---------------------------------------------------------------------

    def refs(self, expr: Node) -> Refs:
        """The `Refs` of a text."""
        found = self._refs.get(id(expr))
        if found is None:
            found = self._refs[id(expr)] = self._make(expr)
            self._kept.append(expr)
        return found

    def _own(self, node: Node) -> tuple[set[str], set[str], set[str]]:
        """Names, reads, and those names that are not within copies of the text's own."""
        names: set[str] = set()
        reads: set[str] = set()
        loose: set[str] = set()
        stack = [(node, True)]
        while stack:
            item, free = stack.pop()
            if isinstance(item, Name | Call):
                name = item.id if isinstance(item, Name) else item.name
                names.add(name)
                if free:
                    loose.add(name)
                free = free and name not in ("each", "cross")
                stack.extend((d, free) for d in self._defaults(item))
            elif isinstance(item, Value):
                reads.add(item.name)
            elif isinstance(item, Repeat):
                free = False
            inner = (item.body,) if isinstance(item, Alt) else children(item)  # not the weight
            stack.extend((child, free) for child in inner)
        return names, reads, loose

    def _defaults(self, node: Name | Call) -> list[Node]:
        """The caller's side of a call holds the texts of parameters that were left out."""
        decl = self.decls.get(node.id if isinstance(node, Name) else node.name)
        given = {a.name for a in node.args} if isinstance(node, Call) else set()
        params = decl.params or () if decl else ()
        return [p.default for p in params if p.default is not None and p.name not in given]

    def _reached(self, name: str) -> frozenset[str]:
        seen: set[str] = set()
        todo = [name]
        while todo:
            for other in self._direct[todo.pop()][0]:
                if other in self.decls and other not in seen:
                    seen.add(other)
                    todo.append(other)
        return frozenset(seen)

    def _loose(self, names: set[str]) -> set[str]:
        """What is met from these names without going through copies."""
        seen, todo = set(names), list(names)
        while todo:
            name = todo.pop()
            more = self._direct[name][2] - seen if name in self.decls else set()
            seen |= more
            todo.extend(more)
        return seen

    def _make(self, expr: Node) -> Refs:
        names, reads, loose = self._own(expr)
        decls = {n for n in names if n in self.decls}
        decls |= {r for n in decls for r in self._reach[n]}
        for name in decls:
            reads |= self._direct[name][1]
        anchored = bool(self._loose(loose) & {"same", "tied"})
        binds: set[str] = set()
        stack: list[Node] = [expr]
        while stack:
            item = stack.pop()
            if isinstance(item, Bind):
                binds.add(item.name)
            if not isinstance(item, Choice):
                stack.extend(children(item))
        return Refs(
            frozenset(names), frozenset(decls), frozenset(reads), frozenset(binds), anchored
        )

    # -- how small it can be -----------------------------------------------------------------

    def _settle_floors(self) -> None:
        """From above, as for shortest derivations (Knuth 1977): from below, `m = m >> m | a` would
        stay at 0."""
        for _ in range(ROUNDS):
            bodies = {n: self.floor(self.decls[n].body, {}) for n in self.recursive}
            new = {n: min(found, ENDLESS) for n, found in bodies.items()}
            if new == self._floors:
                return
            self._floors = new

    def floor(self, expr: Node, given: Mapping[str, int]) -> int:
        """No derivation of `expr` has fewer nodes; `given` holds the floors of arguments."""
        match expr:
            case Choice(alts):
                return min(self.floor(a.body, given) for a in alts)
            case Repeat(body, count):
                return self.floor(body, given) * self._least(count)
            case Value():
                return 1
            case Name(name):
                return self._floor_call(name, Call(name), given)
            case Call(name):
                return self._floor_call(name, expr, given)
            case Sum(items):
                return 1 + sum(self.floor(i, given) for i in items)
        return sum(self.floor(child, given) for child in children(expr))

    def _floor_call(self, name: str, call: Call, given: Mapping[str, int]) -> int:
        if name in given:
            return given[name]
        if name in self.decls:
            if name in self.recursive:
                return self._floors[name]
            texts = {a.name: a.value for a in call.args}
            inner = {}
            for param in self.decls[name].params or ():
                text = texts.get(param.name, param.default)
                inner[param.name] = 0 if text is None else self.floor(text, given)
            return self.floor(self.decls[name].body, inner)
        signature = self.signatures.get(name)
        if signature is None and name not in FORMS:
            return 0  # a parameter whose argument is not known here
        parts = [a.value for a in call.args if self._is_part(a.name, a.value, signature)]
        own = 1 if signature is not None or name == "residual" else 0
        return own + sum(self.floor(p, given) for p in parts)

    @staticmethod
    def _is_part(name: str | None, value: Expr, signature: Signature | None) -> bool:
        if signature is None or name in signature.inputs:
            return True
        flag = isinstance(value, Name) and value.id in signature.params
        return name is None and not flag

    def _least(self, count: Expr) -> int:
        match count:
            case Number(value):
                return max(1, int(value))
            case Range(low):
                return max(1, int(low))
            case Choice(alts):
                return min(self._least(a.body) for a in alts)
        return 1
