"""Calls: every word a known one, every argument resolved, every value inside its domain.

The same text may stand for a part of an architecture or for a value; which of the two is decided by
where it is used. So the check starts at the sentence and follows names with the *role* in which
they are used: `PART`, or the slot of an op's parameter. A rule's parameter has the roles in which
the rule's body uses it; arguments are checked in all of them.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from grammar.ast import (
    Arg,
    Bind,
    Call,
    Choice,
    Decl,
    Expr,
    ListOf,
    Name,
    Number,
    Range,
    Repeat,
    Seq,
    String,
    Sum,
    Value,
)
from grammar.domain import REQUIRED, Domain, Flag, Int, Signature, Word
from grammar.errors import SpaceError, Span, did_you_mean
from grammar.forms import FORMS
from grammar.roles import COUNT, PART, Role, Roles, Slot
from grammar.show import show
from grammar.weights import weights

WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "none": None}
COUNTS = Int(1, 20_000)


Env: TypeAlias = frozenset[str]


def check_calls(
    start: Expr,
    rules: Mapping[str, Decl],
    signatures: Mapping[str, Signature],
    lets: Mapping[str, Expr],
) -> None:
    """Raises: SpaceError at the first word or argument that is wrong, with the way out."""
    calls = Calls(rules, signatures, lets)
    calls.part(start, frozenset())
    while calls.queue:
        decl, role = calls.queue.popleft()
        calls.any(decl.body, role, frozenset(p.name for p in decl.params or ()))


def literal(expr: Expr) -> object:
    """The value that a text without choices stands for; a tree where it stands for none."""
    match expr:
        case Number(value) | String(value):
            return value
        case Name(name):
            return WORDS.get(name, name)
        case ListOf(items):
            return tuple(literal(i) for i in items)
    return expr


def accepts(domain: Domain, value: object) -> bool:
    """Whether a domain has this value."""
    try:
        domain.accept(value)
    except ValueError:
        return False
    return True


@dataclass(slots=True)
class Calls:
    """The walk over roles; `queue` holds the declarations still to be read, with their role."""

    rules: Mapping[str, Decl]
    signatures: Mapping[str, Signature]
    lets: Mapping[str, Expr]
    queue: deque[tuple[Decl, Role]] = field(default_factory=deque)
    seen: set[tuple[str, Role]] = field(default_factory=set)
    roles: dict[str, dict[str, set[Role]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.roles = Roles(self.rules, self.signatures).roles

    # -- parts -------------------------------------------------------------------------------

    def any(self, expr: Expr, role: Role, env: Env) -> None:
        """A text in its role."""
        if role is None:
            self.part(expr, env)
        else:
            self.value(expr, role, env)

    def part(self, expr: Expr, env: Env) -> None:
        """A part of an architecture."""
        match expr:
            case Choice(alts):
                weights(expr, self.lets)
                for alt in alts:
                    self.part(alt.body, env)
            case Seq(items) | Sum(items):
                for item in items:
                    self.part(item, env)
            case Name(name):
                self.call(Call(name, (), span=expr.span), env, bare=True)
            case Call():
                self.call(expr, env)
            case Repeat(body, count):
                self.part(body, env)
                self.value(count, COUNT, env)
            case Bind(body):
                self.part(body, env)
            case Value():
                self.export(expr)
            case _:
                raise _not_a_part(expr, expr.span)

    def export(self, value: Value) -> None:
        if value.field is not None:
            known = sorted({e for s in self.signatures.values() for e in s.exports})
            if value.field not in known:
                hint = did_you_mean(value.field, known) if known else "no op exports anything"
                raise SpaceError(f"no op exports '{value.field}'", span=value.span, hint=hint)

    def call(self, call: Call, env: Env, *, bare: bool = False) -> None:
        """A name with its arguments; parameters of the rule at hand come first, then rules."""
        name = call.name
        if name in env:
            if not bare:
                fact = f"'{name}' is a parameter here and takes no arguments"
                raise SpaceError(fact, span=call.span, hint=f"write {name}")
        elif name in self.rules:
            self.rule_call(call, env)
        elif name in FORMS and not (FORMS[name].op and name in self.signatures):
            self.form_call(call, env)
        elif name in self.signatures:
            self.op_call(call, env)
        else:
            words = [*self.signatures, *self.rules, *env, *FORMS]
            fact = f"'{name[:60]}' is neither an op nor a rule"
            raise SpaceError(fact, span=call.span, hint=did_you_mean(name, words))

    def rule_call(self, call: Call, env: Env) -> None:
        decl = self.rules[call.name]
        if isinstance(decl.body, Number | String | Range | ListOf):
            raise _not_a_part(decl.body, call.span, call.name)
        params = {p.name: p for p in decl.params or ()}
        roles = self.roles.get(call.name, {})
        for arg in call.args:
            if arg.name is None:
                wanted = ", ".join(f"{p}=..." for p in params)
                fact = f"'{call.name}' is a rule: its arguments are given by name"
                hint = f"write {call.name}({wanted})" if params else f"write {call.name}"
                raise SpaceError(fact, span=arg.span, hint=hint)
            if arg.name not in params:
                hint = did_you_mean(arg.name, params) if params else "it takes none"
                fact = f"the rule '{call.name}' has no parameter '{arg.name}'"
                raise SpaceError(fact, span=arg.span, hint=hint)
            for role in roles[arg.name]:
                self.any(arg.value, role, env)
        given = {a.name for a in call.args}
        for name, param in params.items():
            if name in given:
                continue
            if param.default is None:
                fact, hint = f"the rule '{call.name}' needs {name}=", f"{call.name}({name}=...)"
                raise SpaceError(fact, span=call.span, hint=hint)
            for role in roles[name]:
                self.any(param.default, role, frozenset())
        self.follow(decl, PART)

    def follow(self, decl: Decl, role: Role) -> None:
        """Read a declaration in a role, once."""
        if (decl.name, role) not in self.seen:
            self.seen.add((decl.name, role))
            self.queue.append((decl, role))

    def form_call(self, call: Call, env: Env) -> None:
        form = FORMS[call.name]
        for arg in call.args:
            if form.named != (arg.name is not None):
                hint = "give name=part" if form.named else "give a part, without a name"
                fact = f"an argument of '{call.name}' does not fit"
                raise SpaceError(fact, span=arg.span, hint=hint)
            self.part(arg.value, env)
        if not form.fewest <= len(call.args) <= (form.most or len(call.args)):
            more = " or more parts" if form.most is None else " part"
            fact = f"'{call.name}' takes {form.fewest}{more}, got {len(call.args)}"
            raise SpaceError(fact, span=call.span, hint=f"write {call.name}(part)")

    # -- ops ---------------------------------------------------------------------------------

    def op_call(self, call: Call, env: Env) -> None:
        signature, given = self.signatures[call.name], set[str]()
        named = {a.name for a in call.args}
        free = [n for n in signature.inputs if n not in named]
        for arg in call.args:
            name = arg.name or self.positional(call.name, arg, free, env)
            if name in given:
                fact = f"'{name}' of '{call.name}' is given twice"
                raise SpaceError(fact, span=arg.span, hint="keep one of them")
            given.add(name)
            if arg.name is None or name in signature.inputs:
                if not isinstance(signature.params.get(name), Flag):
                    self.part(arg.value, env)
                given.discard("")  # one of any number of parts
            elif name in signature.params:
                self.value(arg.value, Slot(call.name, name), env, arg)
            else:
                words = [*signature.params, *signature.inputs]
                known = f"; it has: {', '.join(words)}" if words else ""
                near = did_you_mean(name, words) if words else "it has none"
                hint = near if near.startswith("known: ") or not words else near + known
                fact = f"'{call.name}' has no parameter '{name}'"
                raise SpaceError(fact, span=arg.span, hint=hint)
        _missing(call, signature, given)

    def positional(self, op: str, arg: Arg, free: list[str], env: Env) -> str:
        """What an argument without a name is: a flag, the next input, or "" for a further part."""
        params, value = self.signatures[op].params, arg.value
        word = value.id if isinstance(value, Name) else None
        flag = word is not None and isinstance(params.get(word), Flag)
        if flag and word is not None and (word in env or word in self.rules):
            fact = f"'{word}' is a flag of '{op}' and a name of this text"
            raise SpaceError(fact, span=arg.span, hint=f"write {word}=true, or rename yours")
        if flag and word is not None:
            return word
        if not isinstance(value, Number | String | Range | ListOf):
            if op in FORMS or self.signatures[op].variadic:
                return ""
            if free:
                return free.pop(0)
        if word in params:
            hint = f"write {word}=...: {params[word].describe()}"
            raise SpaceError(f"'{word}' of '{op}' needs a value", span=arg.span, hint=hint)
        fits = [n for n, d in params.items() if _fits(d, value)]
        hint = f"it has: {', '.join(params) or 'no parameters'}"
        if fits:
            hint = f"write {' or '.join(f'{n}={_brief(value)}' for n in fits[:3])}"
        raise SpaceError(f"'{op}' does not take this without a name", span=arg.span, hint=hint)

    # -- values ------------------------------------------------------------------------------

    def value(self, expr: Expr, slot: Slot, env: Env, arg: Arg | None = None) -> None:
        """A text that fills a parameter, as far as it is known before deriving."""
        domain = COUNTS if slot == COUNT else self.signatures[slot.op].params[slot.param]
        span = arg.span if arg and arg.value is expr else expr.span
        match expr:
            case Choice(alts):
                weights(expr, self.lets)
                for alt in alts:
                    self.value(alt.body, slot, env)
            case Name(name) if name in env:
                return
            case Name(name) if name in self.rules:
                if accepts(domain, literal(expr)):
                    fact = f"'{name}' is both a value of {slot.param} and a name of this text"
                    raise SpaceError(fact, span=span, hint="rename yours")
                decl = self.rules[name]
                if isinstance(decl.body, Number | String | Range | ListOf):
                    self.fits(decl.body, domain, slot, span)
                elif decl.params is None:
                    self.follow(decl, slot)
                else:
                    raise _not_a_value(slot, domain, span)
            case Number() | String() | Name() | ListOf() | Range():
                self.fits(expr, domain, slot, span)
            case _:
                raise _not_a_value(slot, domain, span)

    @staticmethod
    def fits(expr: Expr, domain: Domain, slot: Slot, span: Span | None) -> None:
        """Raises: SpaceError unless the domain has this value, or points in this range."""
        try:
            if not isinstance(expr, Range):
                domain.accept(literal(expr))
            elif not domain.grid(expr.low, expr.high, expr.step):
                raise ValueError(f"no value lies in it; {domain.describe()}")
        except ValueError as error:
            fact = f"{slot.param}={_brief(expr)} {slot} is not allowed: {error}"
            hint = f"{slot.param} is {domain.describe()}"
            if isinstance(domain, Word) and isinstance(expr, Name):
                hint = did_you_mean(expr.id, domain.options)
            raise SpaceError(fact, span=span, hint=hint) from None


def _brief(expr: Expr) -> str:
    text = show(expr)
    return text if len(text) <= 40 else text[:37] + "..."


def _fits(domain: Domain, value: Expr) -> bool:
    if not isinstance(value, Range):
        return accepts(domain, literal(value))
    try:
        return bool(domain.grid(value.low, value.high, value.step))
    except ValueError:
        return False


def _missing(call: Call, signature: Signature, given: set[str]) -> None:
    for name, domain in signature.params.items():
        if domain.default is REQUIRED and name not in given:
            hint = f"{name} is {domain.describe()}"
            raise SpaceError(f"'{call.name}' needs {name}", span=call.span, hint=hint)
    for name in signature.inputs:
        if name not in given and name not in signature.optional:
            hint = f"write {call.name}({name}=@...)"
            raise SpaceError(f"'{call.name}' needs the input {name}", span=call.span, hint=hint)


def _not_a_part(expr: Expr, span: Span | None, name: str = "") -> SpaceError:
    kinds = {Number: "number", String: "text", Range: "range", ListOf: "list"}
    what = f"a {kinds[type(expr)]}"
    fact = f"'{name}' is {what}, not" if name else f"{what} is not"
    hint = "give it to a parameter, as in linear(dim=64)"
    return SpaceError(f"{fact} a part of an architecture", span=span, hint=hint)


def _not_a_value(slot: Slot, domain: Domain, span: Span | None) -> SpaceError:
    fact = f"{slot.param} {slot} is a value, not a part of an architecture"
    return SpaceError(fact, span=span, hint=f"{slot.param} is {domain.describe()}")
