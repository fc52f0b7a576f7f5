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
    Arg,
    Call,
    Choice,
    Decl,
    Expr,
    ListOf,
    Name,
    Node,
    Number,
    Range,
    Repeat,
    Seq,
    Space,
    String,
    Sum,
    children,
    deep,
)
from grammar.domain import REQUIRED, Domain, Flag, Signature
from grammar.errors import SpaceError, did_you_mean
from grammar.forms import FORMS
from grammar.radius import radii
from grammar.scope import check_names
from grammar.weights import weights

WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "none": None}


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
    checker = _Checker(rules, signatures, {d.name: d.body for d in space.decls if d.kind == "let"})
    for decl in space.decls:
        checker.part(decl.body, frozenset(p.name for p in decl.params or ()))
        for param in decl.params or ():
            if param.default is not None:
                checker.part(param.default, frozenset(), value=True)
    checker.part(start, frozenset())
    _reachable(start, rules)
    _productive(rules, start)
    _no_shared_recursion(rules)
    check_names(start, rules, signatures, inputs)
    radius, materialised, guilty = radii(rules, checker.lets, start)
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


@dataclass(frozen=True, slots=True)
class _Checker:
    rules: Mapping[str, Decl]
    signatures: Mapping[str, Signature]
    lets: Mapping[str, Expr]

    def part(self, expr: Expr, env: frozenset[str], *, value: bool = False) -> None:
        """A part of an architecture; with `value`, it may be a value as well."""
        match expr:
            case Choice(alts):
                weights(expr, self.lets)
                for alt in alts:
                    self.part(alt.body, env, value=value)
            case Seq(items) | Sum(items):
                for item in items:
                    self.part(item, env)
            case Name(name):
                if not (value and name not in self.rules):
                    self.known(name, expr, env)
                    self.call(Call(name, (), span=expr.span), env)
            case Call():
                self.known(expr.name, expr, env)
                self.call(expr, env)
            case Repeat(body, count):
                self.part(body, env)
                self.part(count, env, value=True)
            case _:
                for child in children(expr):
                    self.part(child, env, value=value)  # type: ignore[arg-type]  # Bind's body

    def known(self, name: str, node: Node, env: frozenset[str]) -> None:
        if not (name in env or name in self.rules or name in self.signatures or name in FORMS):
            words = [*self.signatures, *self.rules, *env, *FORMS]
            raise SpaceError(
                f"'{name}' is neither an op nor a rule",
                span=node.span,
                hint=did_you_mean(name, words),
            )

    def call(self, call: Call, env: frozenset[str]) -> None:
        if call.name in env:
            return
        if call.name in self.rules:
            self.rule_call(call, env)
        elif call.name in FORMS and not FORMS[call.name].op:
            self.form_call(call, env)
        elif call.name in self.signatures:
            self.op_call(call, env, reduces=call.name in FORMS)

    def rule_call(self, call: Call, env: frozenset[str]) -> None:
        params = {p.name: p for p in self.rules[call.name].params or ()}
        for arg in call.args:
            if arg.name is None:
                raise SpaceError(
                    f"'{call.name}' is a rule: its arguments are given by name",
                    span=arg.span,
                    hint=f"write {call.name}({', '.join(f'{p}=...' for p in params)})",
                )
            if arg.name not in params:
                hint = did_you_mean(arg.name, params) if params else "it takes none"
                raise SpaceError(
                    f"the rule '{call.name}' has no parameter '{arg.name}'",
                    span=arg.span,
                    hint=hint,
                )
            self.part(arg.value, env, value=True)
        given = {a.name for a in call.args}
        for name, param in params.items():
            if name not in given and param.default is None:
                raise SpaceError(
                    f"the rule '{call.name}' needs {name}=", span=call.span, hint="give it a value"
                )

    def form_call(self, call: Call, env: frozenset[str]) -> None:
        form = FORMS[call.name]
        for arg in call.args:
            if form.named != (arg.name is not None):
                hint = "name=part" if form.named else "a part, without a name"
                raise SpaceError(
                    f"an argument of '{call.name}' does not fit", span=arg.span, hint=f"give {hint}"
                )
            self.part(arg.value, env)
        if not form.fewest <= len(call.args) <= (form.most or len(call.args)):
            raise SpaceError(
                f"'{call.name}' takes {form.fewest} part{'s' if form.most is None else ''}"
                f"{' or more' if form.most is None else ''}, got {len(call.args)}",
                span=call.span,
            )

    def op_call(self, call: Call, env: frozenset[str], *, reduces: bool) -> None:
        signature = self.signatures[call.name]
        given: set[str] = set()
        free = list(signature.inputs)
        for arg in call.args:
            name, word = arg.name, arg.value.id if isinstance(arg.value, Name) else None
            if name is None and word is not None and isinstance(signature.params.get(word), Flag):
                given.add(word)
            elif name is None and reduces:
                self.part(arg.value, env)
            elif name is None and free:
                given.add(free.pop(0))
                self.part(arg.value, env)
            elif name is None:
                raise SpaceError(
                    f"'{call.name}' does not take this without a name",
                    span=arg.span,
                    hint=f"write name=value; it has: {', '.join(signature.params) or 'none'}",
                )
            elif name in signature.inputs:
                given.add(name)
                free = [f for f in free if f != name]
                self.part(arg.value, env)
            elif name in signature.params:
                given.add(name)
                self.value(arg, arg.value, signature.params[name], call.name, env)
            else:
                words = [*signature.params, *signature.inputs]
                raise SpaceError(
                    f"'{call.name}' has no parameter '{name}'",
                    span=arg.span,
                    hint=did_you_mean(name, words) if words else "it has none",
                )
        self.missing(call, signature, given)

    @staticmethod
    def missing(call: Call, signature: Signature, given: set[str]) -> None:
        for name, domain in signature.params.items():
            if domain.default is REQUIRED and name not in given:
                raise SpaceError(
                    f"'{call.name}' needs {name}",
                    span=call.span,
                    hint=f"{name} is {domain.describe()}",
                )
        for name in signature.inputs:
            if name not in given and name not in signature.optional:
                raise SpaceError(f"'{call.name}' needs the input {name}=@...", span=call.span)

    def value(self, arg: Arg, expr: Expr, domain: Domain, op: str, env: frozenset[str]) -> None:
        """A parameter's text, as far as it is known before deriving."""
        match expr:
            case Choice(alts):
                weights(expr, self.lets)
                for alt in alts:
                    self.value(arg, alt.body, domain, op, env)
                return
            case Name(name) if name in env or name in self.rules:
                return
            case Seq() | Sum() | Repeat() | Call():
                raise SpaceError(
                    f"{arg.name} of '{op}' is a value, not a part of an architecture",
                    span=expr.span or arg.span,
                    hint=f"{arg.name} is {domain.describe()}",
                )
        try:
            if isinstance(expr, Range):
                if not domain.grid(expr.low, expr.high, expr.step):
                    raise ValueError("this range holds no value")
            else:
                domain.accept(_literal(expr))
        except ValueError as error:
            raise SpaceError(
                f"{arg.name} of '{op}' does not allow this: {error}",
                span=arg.span,
                hint=f"{arg.name} is {domain.describe()}",
            ) from None


def _literal(expr: Expr) -> object:
    match expr:
        case Number(value) | String(value):
            return value
        case Name(name):
            return WORDS.get(name, name)
        case ListOf(items):
            return tuple(_literal(i) for i in items)
    return expr


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
