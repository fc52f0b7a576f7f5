"""Values in a sentence: numbers, words, ranges, lists, counts, and the choices among them.

`Values` is the half of the walk that fills parameters; it owns the trace, because a parameter's
value is a choice like any other.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from grammar.ast import (
    Arg,
    Call,
    Choice,
    Decl,
    Expr,
    ListOf,
    Name,
    Number,
    Range,
    Space,
    String,
)
from grammar.domain import REQUIRED, Domain, Flag, Int, Scalar, Signature
from grammar.errors import SpaceError
from grammar.parts import Place
from grammar.walk import Chooser, Infeasible, refuse
from grammar.weights import weights

COUNTS = Int(1, 20_000)
WORDS: Mapping[str, Scalar] = {"true": True, "false": False, "none": None}


@dataclass(frozen=True, slots=True)
class Given:
    """The text of one parameter; None is a flag that was named."""

    text: Expr | None


class Values:
    """Choices made so far, and the values that texts stand for."""

    def __init__(self, space: Space, chooser: Chooser) -> None:
        self.space, self.chooser = space, chooser
        self.decls: Mapping[str, Decl] = {d.name: d for d in space.decls}
        self.lets_of = {d.name: d.body for d in space.decls if d.kind == "let"}
        self.trace: dict[str, int] = {}
        self.log_prob = 0.0
        self._weights: dict[int, tuple[float, ...]] = {}

    def sentence(self) -> Expr:
        """The final sentence, or the body of the first plain rule."""
        if self.space.final is not None:
            return self.space.final
        for decl in self.space.decls:
            if decl.kind == "rule" and not decl.params:
                return Name(decl.name, span=decl.span)
        raise SpaceError(
            "nothing to derive", hint="end with a sentence, or write a rule: net = ...;"
        )

    def note(self, error: Infeasible) -> None:
        """Keep a refusal; the walk counts them."""
        raise NotImplementedError

    # -- choices -----------------------------------------------------------------------------

    def pick(self, address: str, choice: Choice) -> Iterator[int]:
        """The alternatives in the chooser's order."""
        shares = self._weights.get(id(choice))
        if shares is None:
            shares = self._weights[id(choice)] = weights(choice, self.lets_of)
        yield from self._pick(address, shares)

    def _pick(self, address: str, shares: tuple[float, ...]) -> Iterator[int]:
        made = self.trace.get(address)
        if made is not None:
            yield made
            return
        left = list(range(len(shares)))
        while left:
            index = left[0]
            if len(left) > 1 or len(shares) > 1:
                index = self.chooser.pick(address, left, [shares[i] for i in left])
            left.remove(index)
            before = self.log_prob
            self.trace[address] = index
            self.log_prob = before + math.log(shares[index])
            yield index
            self.log_prob = before
            del self.trace[address]

    # -- values ------------------------------------------------------------------------------

    def counts(self, expr: Expr, place: Place) -> Iterator[int]:
        """What a repeat's count may be."""
        for value in self.values(expr, COUNTS, replace(place, address=f"{place.address}/*")):
            yield int(value)  # type: ignore[arg-type]  # COUNTS gives int

    def values(self, expr: Expr, domain: Domain, place: Place) -> Iterator[Scalar]:
        """What a text may stand for in a domain, in the chooser's order."""
        match expr:
            case Choice(alts):
                for i in self.pick(place.address, expr):
                    inner = replace(place, address=f"{place.address}/|{i}")
                    yield from self.values(alts[i].body, domain, inner)
            case Range():
                yield from self._range(expr, domain, place.address)
            case Name(name) if name in place.env:
                closure = place.env[name]
                yield from self.values(closure.body, domain, closure.place)
            case Name(name) if name in self.decls and not self._is_word(name, domain):
                decl = self.decls[name]
                address = (
                    f"{place.address}/{name}" if decl.kind == "rule" else f"{decl.kind}:{name}"
                )
                spot = replace(place, address=address, env={}, depth=place.depth + 1)
                if spot.depth > 200:
                    self.note(refuse(f"'{name}' never becomes a value", expr))
                    return
                yield from self.values(decl.body, domain, spot)
            case _:
                try:
                    value = domain.accept(self._literal(expr))
                except (ValueError, Infeasible) as error:
                    wrong = error if isinstance(error, Infeasible) else None
                    self.note(wrong or refuse(f"this value is not allowed: {error}", expr))
                    return
                yield value

    @staticmethod
    def _is_word(name: str, domain: Domain) -> bool:
        try:
            domain.accept(name)
        except ValueError:
            return False
        return True

    def _range(self, expr: Range, domain: Domain, address: str) -> Iterator[Scalar]:
        try:
            points = domain.grid(expr.low, expr.high, expr.step)
        except ValueError as error:
            self.note(refuse(f"this range is not allowed: {error}", expr))
            return
        if not points:
            self.note(refuse("this range is empty", expr))
            return
        for i in self._pick(address, (1.0 / len(points),) * len(points)):
            yield points[i]

    def _literal(self, expr: Expr) -> object:
        match expr:
            case Number(value) | String(value):
                return value
            case Name(name):
                return WORDS.get(name, name)
            case ListOf(items):
                return tuple(self._literal(item) for item in items)
        raise refuse("a value is needed here", expr)

    # -- arguments ---------------------------------------------------------------------------

    @staticmethod
    def arguments(call: Call, signature: Signature) -> tuple[dict[str, Given], dict[str, Expr]]:
        """Texts of parameters in table order, and expressions of declared inputs by name."""
        texts: dict[str, Given] = {}
        sources: dict[str, Expr] = {}
        for arg in call.args:
            name = arg.name
            word = arg.value.id if isinstance(arg.value, Name) else None
            if name is None and word and isinstance(signature.params.get(word), Flag):
                texts[word] = Given(None)
                continue
            if name is None:
                open_inputs = [n for n in signature.inputs if n not in sources]
                if not open_inputs:
                    raise refuse(f"'{call.name}' takes no such argument", arg, "write name=value")
                name = open_inputs[0]
            if name in signature.inputs:
                sources[name] = arg.value
            elif name in signature.params:
                texts[name] = Given(arg.value)
            else:
                raise refuse(f"'{call.name}' has no parameter '{name}'", arg)
        for name in signature.inputs:
            if name not in sources and name not in signature.optional:
                raise refuse(f"'{call.name}' needs {name}=@...", call)
        for name, domain in signature.params.items():
            if name not in texts and domain.default is REQUIRED:
                raise refuse(f"'{call.name}' needs {name}={domain.describe()}", call)
        return {n: texts[n] for n in signature.params if n in texts}, sources

    def assign(
        self, texts: Mapping[str, Given], signature: Signature, place: Place
    ) -> Iterator[dict[str, Scalar]]:
        """All fillings of the parameters, defaults included."""
        params: dict[str, Scalar] = {
            name: domain.default  # type: ignore[misc]  # required ones are in texts
            for name, domain in signature.params.items()
        }
        names = list(texts)

        def fill(i: int) -> Iterator[dict[str, Scalar]]:
            if i == len(names):
                yield dict(params)
                return
            name, text = names[i], texts[names[i]].text
            domain = signature.params[name]
            spot = replace(place, address=f"{place.address}/{signature.name}.{name}")
            for value in (True,) if text is None else self.values(text, domain, spot):
                params[name] = value
                yield from fill(i + 1)

        yield from fill(0)

    @staticmethod
    def closed_params(params: Mapping[str, Scalar], texts: Mapping[str, Given]) -> tuple[Arg, ...]:
        """The filled parameters as text, those that the user wrote."""
        return tuple(
            Arg(None, Name(name)) if given.text is None else Arg(name, literal(params[name]))
            for name, given in texts.items()
        )


def literal(value: Scalar) -> Expr:
    """The text of a value."""
    if value is None or isinstance(value, bool):
        return Name({None: "none", True: "true", False: "false"}[value])
    if isinstance(value, tuple):
        return ListOf(tuple(Number(v) for v in value))
    return Name(value) if isinstance(value, str) else Number(value)
