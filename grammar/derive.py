"""The walk: the one place that says what the language means.

`derivations` walks a sentence from left to right, asks a `Chooser` at every choice and an `Algebra`
what each op does to the value that flows. Where an op does not fit, the walk goes back to the last
choice and takes another alternative: every part is a generator of its possible results, and
values are immutable, so going back only drops them. Sampling, replay, enumeration, mutation and
building from a closed text differ in nothing but the chooser.

Two paths run along: the *address* of a choice (what the trace is keyed by) and the path of the
*module* (which weights are meant). `fix`, `same` and rule arguments share addresses; `let` and
`tied` share both.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from grammar.ast import (
    Arg,
    Bind,
    Call,
    Choice,
    Decl,
    Expr,
    Name,
    Node,
    Repeat,
    Seq,
    Space,
    Sum,
    Value,
    deep,
    seq,
    total,
)
from grammar.errors import SpaceError
from grammar.forms import FORMS
from grammar.parts import Closure, Label, Place, Scope, Step, carried, handed_back, listed
from grammar.structure import Structure
from grammar.walk import (
    Algebra,
    Chooser,
    Derivation,
    Infeasible,
    Limits,
    Site,
    refuse,
)

MAX_REFUSALS = 3_000


class GaveUp(Exception):
    """More refusals than a single draw may meet; the caller may draw again."""


class Walk(Structure):
    """One derivation in progress. Its dictionaries are undone when a generator is resumed."""

    def __init__(self, space: Space, chooser: Chooser, algebra: Algebra, limits: Limits) -> None:
        super().__init__(space, chooser)
        self.algebra, self.limits = algebra, limits
        self.signatures = algebra.signatures
        self.modules: dict[str, object] = {}
        self.lets: dict[str, Expr] = {}
        self.layers: dict[str, int] = {}
        self.nodes = self.params = self.flops = self.memory = self.refusals = 0
        self.furthest: tuple[int, SpaceError] | None = None

    # -- entry -------------------------------------------------------------------------------

    def run(self) -> Iterator[Derivation]:
        """All derivations in the chooser's order."""
        start, place = self.sentence(), Place(env={})
        values = self.algebra.inputs()
        scope = {name: Label(value, name) for name, value in values.items()}
        incoming = next(iter(values.values())) if len(values) == 1 else None
        for step in self.walk(start, place, incoming, scope):
            try:
                value = self.algebra.finish(step.value, Site("", 0, start))
            except Infeasible as error:
                self.note(error)
                continue
            lets = tuple(Decl("let", n, None, body) for n, body in self.lets.items())
            costs = self.nodes, self.params, self.flops, self.refusals, self.memory
            closed = Space(lets, step.expr)
            yield Derivation(closed, dict(self.trace), value, self.log_prob, *costs)

    def note(self, error: Infeasible) -> None:
        """Keep the refusal that came furthest: it is what the user is told if nothing fits."""
        self.refusals += 1
        if self.furthest is None or self.nodes > self.furthest[0]:
            self.furthest = (self.nodes, error.error)
        if self.refusals > MAX_REFUSALS:
            raise GaveUp

    # -- dispatch ----------------------------------------------------------------------------

    def walk(self, expr: Expr, place: Place, x: object, scope: Scope) -> Iterator[Step]:
        match expr:
            case Seq(items):
                yield from self._sequence(expr, items, place, x, scope)
            case Sum(items):
                yield from self._sum(expr, items, place, x, scope)
            case Choice(alts):
                for i in self.pick(place.address, expr):
                    inner = place.at(f"|{i}")
                    for step in self.walk(alts[i].body, inner, x, scope):
                        yield Step(step.expr, step.value, self._leave(scope, step.scope))
            case Repeat(body, count):
                for n in self.counts(count, place):
                    yield from self._copies(body, place, x, scope, n)
            case Bind(body, name):
                for step in self.walk(body, place, x, scope):
                    closed = f"{name}@{place.module}"
                    label = Label(step.value, closed)
                    yield Step(Bind(step.expr, closed), step.value, {**step.scope, name: label})
            case Value():
                yield from self._attempt(lambda: self._value(expr, scope))
            case Name(name):
                yield from self._call(Call(name, (), span=expr.span), place, x, scope)
            case Call():
                yield from self._call(expr, place, x, scope)
            case _:
                yield from self._attempt(lambda: self._not_a_part(expr))

    def _attempt(self, make: Callable[[], Step]) -> Iterator[Step]:
        try:
            step = make()
        except Infeasible as error:
            self.note(error)
            return
        yield from self._counted(step)

    def _counted(self, step: Step) -> Iterator[Step]:
        if self.nodes >= self.limits.nodes:
            self.note(refuse(f"more than {self.limits.nodes} nodes after expansion", step.expr))
            return
        self.nodes += 1
        yield step
        self.nodes -= 1

    @staticmethod
    def _not_a_part(expr: Expr) -> Step:
        raise refuse("a number, range, list or text is not a part of an architecture", expr)

    @staticmethod
    def _leave(before: Scope, after: Scope) -> Scope:
        """Names bound inside a choice stay in it."""
        return before

    # -- sequence, sum, repeats --------------------------------------------------------------

    def _sequence(
        self, expr: Expr, items: Sequence[Expr], place: Place, x: object, scope: Scope
    ) -> Iterator[Step]:
        def maker(i: int) -> Callable[[Step | None], Iterator[Step]]:
            return lambda before: self.walk(
                items[i],
                place.at(i),
                before.value if before else x,
                before.scope if before else scope,
            )

        for steps in self.chain([maker(i) for i in range(len(items))]):
            closed = seq([s.expr for s in steps], span=expr.span)
            yield Step(closed, steps[-1].value, steps[-1].scope)

    def _sum(
        self, expr: Expr, items: Sequence[Expr], place: Place, x: object, scope: Scope
    ) -> Iterator[Step]:
        for steps in self.branches(items, place, [x] * len(items), scope, copies=False):
            values = [s.value for s in steps]
            closed = total([s.expr for s in steps], span=expr.span)
            yield from self.op("add", {}, values, {}, expr, place, closed, steps[-1].scope)

    def _copies(
        self, body: Expr, place: Place, x: object, scope: Scope, count: int
    ) -> Iterator[Step]:
        def maker(i: int) -> Callable[[Step | None], Iterator[Step]]:
            return lambda before: self.walk(
                body, place.copy(i), before.value if before else x, scope
            )

        for steps in self.chain([maker(i) for i in range(count)]):
            closed = seq([s.expr for s in steps], span=body.span)
            yield Step(closed, steps[-1].value, listed(scope, steps))

    # -- names -------------------------------------------------------------------------------

    def _value(self, expr: Value, scope: Scope) -> Step:
        label = scope.get(expr.name)
        if label is None:
            raise refuse(f"'@{expr.name}' is not bound here", expr, "bind it first: f as name")
        if isinstance(label, tuple):
            return self._listed_value(expr, label, scope)
        if expr.index is not None:
            raise refuse(f"'@{expr.name}' is one value, not a list", expr, f"write @{expr.name}")
        closed = replace(expr, name=label.closed)
        if expr.field is not None:
            value = self.algebra.export(label.value, expr.field, Site("", 0, expr))
            return Step(closed, value, scope)
        return Step(closed, label.value, scope)

    @staticmethod
    def _listed_value(expr: Value, labels: tuple[Label, ...], scope: Scope) -> Step:
        if expr.index is None:
            hint = f"write @{expr.name}[] for all, @{expr.name}[0] or @{expr.name}[-1] for one"
            raise refuse(f"'@{expr.name}' is a list after its repeat", expr, hint)
        if expr.index == "all":
            parts = tuple(Arg(None, Value(label.closed)) for label in labels)
            return Step(Call("fork", parts), tuple(label.value for label in labels), scope)
        if not -len(labels) <= expr.index < len(labels):
            raise refuse(f"'@{expr.name}' has {len(labels)} values", expr)
        label = labels[expr.index]
        return Step(Value(label.closed), label.value, scope)

    def _call(self, call: Call, place: Place, x: object, scope: Scope) -> Iterator[Step]:
        name = call.name
        if name in place.env:
            yield from self._argument(place.env[name], place, x, scope)
        elif name in self.decls:
            yield from self._rule(self.decls[name], call, place, x, scope)
        elif self._takes_parts(call):
            yield from self.form(call, place, x, scope)
        elif name in self.signatures:
            yield from self.op_call(call, place, x, scope)
        else:
            self.note(refuse(f"'{name}' is neither an op nor a rule", call))

    def _takes_parts(self, call: Call) -> bool:
        """Whether it is a form, or an op of any number of values that are given as parts."""
        signature = self.signatures.get(call.name)
        if signature is None or not (call.name in FORMS or signature.variadic):
            return call.name in FORMS
        return bool(self.parts(call))

    def _argument(self, closure: Closure, place: Place, x: object, scope: Scope) -> Iterator[Step]:
        origin = closure.place
        spot = Place(origin.address, place.module, origin.env, place.depth, place.output)
        for step in self.walk(closure.body, spot, x, closure.scope):
            bound = carried(origin.address, closure.scope, step.scope)
            yield Step(step.expr, step.value, {**scope, **bound})

    def _rule(
        self, decl: Decl, call: Call, place: Place, x: object, scope: Scope
    ) -> Iterator[Step]:
        if place.depth >= self.limits.depth:
            self.note(refuse(f"rules nest deeper than {self.limits.depth}", call))
            return
        spot = place.at(decl.name)
        given = {a.name: a.value for a in call.args}
        env = {}
        for param in decl.params or ():
            text = given.get(param.name, param.default)
            if text is None:
                self.note(refuse(f"'{decl.name}' needs {param.name}=", call))
                return
            origin = Place(
                f"{spot.address}:{param.name}", place.module, place.env, place.depth, place.output
            )
            env[param.name] = Closure(text, origin, scope)
        spot = Place(spot.address, spot.module, env, place.depth + 1, place.output)
        if decl.kind == "let":
            yield from self.let(decl.name, decl.body, spot, x, scope)
            return
        if decl.kind == "fix":
            spot = replace(spot, address=f"fix:{decl.name}")
        origins = [c.place.address for c in env.values()]
        for step in self.walk(decl.body, spot, x, scope):
            yield Step(step.expr, step.value, handed_back(origins, scope, step.scope))

    def let(self, name: str, body: Expr, place: Place, x: object, scope: Scope) -> Iterator[Step]:
        """One choice and one module wherever it is used."""
        spot = replace(place, address=f"let:{name}", module=f"let:{name}")
        for step in self.walk(body, spot, x, scope):
            known = self.lets.get(name)
            self.lets[name] = step.expr
            yield Step(Name(name), step.value, scope)
            if known is None:
                del self.lets[name]
            else:
                self.lets[name] = known

    # -- ops ---------------------------------------------------------------------------------

    def op_call(self, call: Call, place: Place, x: object, scope: Scope) -> Iterator[Step]:
        signature = self.signatures[call.name]
        try:
            texts, sources = self.arguments(call, signature)
        except Infeasible as error:
            self.note(error)
            return
        names = list(sources)
        flows = self.branches([sources[n] for n in names], place, [x] * len(names), scope, False)
        for steps in flows if names else iter([[]]):
            after = steps[-1].scope if steps else scope
            extra = tuple(Arg(n, s.expr) for n, s in zip(names, steps, strict=True))
            values = dict(zip(names, (s.value for s in steps), strict=True))
            for params in self.assign(texts, signature, place):
                given = self.closed_params(params, texts)
                closed = (
                    Call(call.name, extra + given, span=call.span)
                    if extra or given
                    else Name(call.name, span=call.span)
                )
                xs = x if isinstance(x, tuple) and signature.variadic else (x,)
                yield from self.op(call.name, params, xs, values, call, place, closed, after)

    def op(
        self,
        name: str,
        params: Mapping[str, object],
        values: Sequence[object],
        inputs: Mapping[str, object],
        node: Node,
        place: Place,
        closed: Expr,
        scope: Scope,
    ) -> Iterator[Step]:
        layer = self.layers.get(name, 0)
        spans = {a.name: a for a in node.args if a.name} if isinstance(node, Call) else {}
        module = f"{place.module}/{name}"
        site = Site(module, layer, node, spans, place.output)
        try:
            applied = self.algebra.apply(name, params, values, inputs, site)  # type: ignore[arg-type]  # scalars
            known = self.modules.get(module)
            if known is not None and known != applied.constructor:
                raise refuse(
                    f"one module of '{name}' cannot be {known} and {applied.constructor}", node
                )
            fresh = 0 if known is not None else applied.params
            self._afford(fresh, applied.flops, applied.memory, node)
        except Infeasible as error:
            self.note(error)
            return
        if known is None:
            self.modules[module] = applied.constructor
        self.params, self.flops = self.params + fresh, self.flops + applied.flops
        self.memory += applied.memory
        self.layers[name] = layer + 1
        yield from self._counted(Step(closed, applied.value, scope))
        self.layers[name] = layer
        self.params, self.flops = self.params - fresh, self.flops - applied.flops
        self.memory -= applied.memory
        if known is None:
            del self.modules[module]

    def _afford(self, params: int, flops: int, memory: int, node: Node) -> None:
        for what, used, limit in (
            ("params", self.params + params, self.limits.params),
            ("flops", self.flops + flops, self.limits.flops),
            ("bytes of activations", self.memory + memory, self.limits.memory),
        ):
            if limit is not None and used > limit:
                raise refuse(f"{what} grow to {used:,}, more than {limit:,}", node)


def derivations(
    space: Space, chooser: Chooser, algebra: Algebra, limits: Limits | None = None
) -> Iterator[Derivation]:
    """All derivations in the chooser's order, lazily; at the end of none, the refusal.

    Raises: SpaceError when there is no derivation, with the refusal that came furthest.
    """
    walk = Walk(space, chooser, algebra, limits or Limits())
    found = False
    with deep():
        for derivation in walk.run():
            found = True
            yield derivation
    if not found:
        raise walk.furthest[1] if walk.furthest else SpaceError("the space has no sentence")


def derive(
    space: Space,
    chooser: Chooser,
    algebra: Algebra,
    limits: Limits | None = None,
    *,
    tries: int = 20,
) -> tuple[Derivation, int]:
    """The chooser's first derivation, and how many draws it took.

    A draw that meets more than `MAX_REFUSALS` refusals is dropped and drawn anew.

    Raises: SpaceError when nothing fits, or no draw of `tries` came through.
    """
    for attempt in range(1, tries + 1):
        try:
            return next(derivations(space, chooser, algebra, limits)), attempt
        except GaveUp:
            continue
    raise SpaceError(
        f"no architecture was found in {tries} draws of {MAX_REFUSALS:,} refusals each",
        hint="the space hardly fits this task: loosen its budget, or its rules",
    )
