"""The walk that sums instead of choosing: every part gives all its outcomes, each with a vertex.

It goes through a sentence in the order of `Walk` and means the same by it. Outcomes that no later
part can tell apart are one, so the tables stay small where the derivations are many. A part that
may reach itself is asked for an exact number of nodes, which makes recursion finite.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from grammar.ast import Bind, Call, Choice, Decl, Expr, Name, Node, Repeat, Seq, Sum, Value
from grammar.domain import Scalar
from grammar.errors import SpaceError
from grammar.exact_state import (
    EMPTY,
    EVERY,
    Closure,
    Draft,
    Many,
    Out,
    Spot,
    Store,
    Table,
    Vertex,
    finish,
    join,
    kept,
    look,
    put,
    root,
)
from grammar.exact_values import Fill, Roots, State
from grammar.forms import FORMS
from grammar.values import COUNTS, Values
from grammar.walk import Applied, Infeasible, Site, refuse

Found: TypeAlias = Iterator[tuple[Out, Vertex]]
Answer: TypeAlias = tuple[object, int, int, object]


@runtime_checkable
class Several(Protocol):
    """An algebra under which one op may have several results."""

    def alternatives(
        self,
        op: str,
        params: Mapping[str, Scalar],
        values: Sequence[object],
        inputs: Mapping[str, object],
        site: Site,
    ) -> Sequence[Applied]: ...


@dataclass(frozen=True, slots=True)
class Part:
    """One step of a chain: from an outcome so far to outcomes after, within bounds of nodes."""

    run: Callable[[Out, int, int], Found]
    floor: int


class Flow(Fill):
    """Sequence, choice, names and ops; the forms stand in `grammar/exact_forms.py`."""

    _memo: dict[object, Table | None]
    _applied: dict[object, tuple[Answer, ...]]

    def form(self, call: Call, at: State, x: object, size: int) -> Table:
        """All outcomes of a form that takes parts."""
        raise NotImplementedError

    def is_form(self, call: Call) -> bool:
        """Whether the call takes parts."""
        raise NotImplementedError

    # -- entry -------------------------------------------------------------------------------

    def walk(self, expr: Expr, at: State, x: object, low: int, high: int) -> Found:
        """The outcomes of `expr` with `low..high` nodes.

        Raises: SpaceError for recursion without a node budget, or that spends no node.
        """
        cut, frame = self.settle(expr, at)
        reach = self.reach(expr, at.spot.env)
        if not reach.recursive:
            tables = [self.table(expr, cut, x, EVERY)]
        elif high >= EVERY:
            raise SpaceError(
                "this part may reach itself, so the space has no largest sentence",
                span=expr.span,
                hint="give a budget of nodes",
            )
        else:
            sizes = range(max(low, reach.floor), high + 1)
            tables = [self.table(expr, cut, x, n) for n in sizes]
        for table in tables:
            for out, vertex in table.items():
                if low <= out.nodes <= high:
                    yield (out._replace(store=join(frame, out.store)) if frame else out), vertex

    def table(self, expr: Expr, at: State, x: object, size: int) -> Table:
        """All outcomes of `expr` at a settled state, computed once."""
        key = (id(expr), at.spot, x, self.names(at.scope), at.store, at.wanted, size)
        try:
            found = self._memo[key]
        except KeyError:
            self._memo[key] = None
            self._held.append(expr)
            found = self._memo[key] = self._tidy(self.compute(expr, at, x, size), at.wanted)
        if found is None:
            raise SpaceError(
                "this part may reach itself without an op in between: it has no end",
                span=expr.span,
                hint="remove the alternative that leads straight back",
            )
        return found

    @staticmethod
    def _tidy(table: Table, wanted: Roots) -> Table:
        """What nobody wants is dropped, and outcomes that have become equal are one."""
        if not any(out.store or out.binds for out in table):
            return table
        draft: Draft = {}
        for out, vertex in table.items():
            binds = tuple(b for b in out.binds if f"@{b[0]}" in wanted)
            short = out._replace(binds=binds, store=kept(out.store, wanted))
            draft.setdefault(short, []).append((1.0, -1, 0, 0, 1, (vertex,)))
        return finish(draft)

    # -- dispatch ----------------------------------------------------------------------------

    def compute(self, expr: Expr, at: State, x: object, size: int) -> Table:
        match expr:
            case Seq(items):
                parts = [self.flow(items, i, at) for i in range(len(items))]
                return self.chain(parts, Out(x, (), at.store), size)
            case Sum(items):
                parts = self.branches(items, at, [x] * len(items), copies=False)
                parts.append(self.op_part("add", {}, {}, expr, at))
                return self.chain(parts, Out((), (), at.store), size)
            case Choice():
                return self._choice(expr, at, x, size)
            case Repeat():
                return self._repeat(expr, at, x, size)
            case Bind(body, name):
                return self._bind(body, name, at, x, size)
            case Value():
                return self._attempt(lambda: self._value(expr, at.scope), at, size)
            case Name(name):
                return self._call(Call(name, (), span=expr.span), at, x, size)
            case Call():
                return self._call(expr, at, x, size)
        self.note(refuse("a number, range, list or text is not a part of an architecture", expr))
        return {}

    def chain(self, parts: Sequence[Part], start: Out, size: int) -> Table:
        """The parts one after the other; of exactly `size` nodes, unless that is EVERY."""
        rest = [0]
        for part in reversed(parts):
            rest.append(rest[-1] + part.floor)
        rest.reverse()
        table: Table = {start: EMPTY}
        for i, part in enumerate(parts):
            draft: Draft = {}
            for state, before in table.items():
                low, high = 0, EVERY
                if size != EVERY:
                    high = size - state.nodes - rest[i + 1]
                    low = high if i == len(parts) - 1 else 0
                if high < 0:
                    continue
                for out, vertex in part.run(state, low, high):
                    below = tuple(v for v in (before, vertex) if v is not EMPTY)
                    draft.setdefault(out, []).append((1.0, -1, 0, 0, 1, below))
            table = finish(draft)
        return table

    def grow(self, state: Out, value: object, more: Out) -> Out | None:
        """`state` followed by `more`, with this value; None where that is over the budget."""
        params, flops = state.params + more.params, state.flops + more.flops
        if self.limits.params is not None and params > self.limits.params:
            return None
        if self.limits.flops is not None and flops > self.limits.flops:
            return None
        binds = state.binds
        if more.binds:
            binds = tuple(sorted({**dict(binds), **dict(more.binds)}.items(), key=lambda b: b[0]))
        return Out(value, binds, more.store, state.nodes + more.nodes, params, flops)

    def flow(self, items: Sequence[Expr], i: int, at: State) -> Part:
        """Item `i` of a sequence, on the value before it."""
        wanted = at.wanted | self.needs(items[i + 1 :], at.spot.env)
        if i < len(items) - 1:
            wanted = wanted | self.own(at.spot)
        spot = at.spot.at(i)

        def run(state: Out, low: int, high: int) -> Found:
            scope = {**at.scope, **dict(state.binds)}
            inner = State(spot, scope, state.store, wanted)
            for out, vertex in self.walk(items[i], inner, state.value, low, high):
                grown = self.grow(state, out.value, out)
                if grown is not None:
                    yield grown, vertex

        return Part(run, self.reach(items[i], at.spot.env).floor)

    def branches(
        self, items: Sequence[Expr], at: State, xs: Sequence[object], *, copies: bool
    ) -> list[Part]:
        """`items[i]` on `xs[i]`; the values so far are a tuple, names flow from one to the next."""
        return [self._branch(items, i, at, xs[i], copies) for i in range(len(items))]

    def _branch(self, items: Sequence[Expr], i: int, at: State, x: object, copies: bool) -> Part:
        later = items[i + 1 :]
        wanted = at.wanted | self.own(at.spot) | self.needs(later, at.spot.env)
        spot = at.spot.at(i)
        if copies:
            anchored = any(self.reach(item, at.spot.env).anchored for item in items)
            spot, roots = self.copy(at.spot, i, anchored)
            wanted = wanted | roots if later else wanted

        def run(state: Out, low: int, high: int) -> Found:
            scope = {**at.scope, **dict(state.binds)}
            inner = State(spot, scope, state.store, wanted)
            for out, vertex in self.walk(items[i], inner, x, low, high):
                assert isinstance(state.value, tuple)
                grown = self.grow(state, (*state.value, out.value), out)
                if grown is not None:
                    yield grown, vertex

        return Part(run, self.reach(items[i], at.spot.env).floor)

    @staticmethod
    def copy(spot: Spot, index: int, anchored: bool) -> tuple[Spot, Roots]:
        """The spot of a copy, and the roots that its siblings share with it."""
        fresh = f"%{spot.level() + 1}" if anchored else ""
        inner = Spot(
            f"{spot.address}[{index}]" if spot.address else "",
            f"{spot.address}[=]" if spot.address else fresh,
            f"{spot.module}[{index}]" if spot.module else "",
            f"{spot.module}[=]" if spot.module else fresh,
            spot.env,
        )
        shared = (inner.near, inner.mnear) if anchored else ()
        return inner, frozenset(root(p) for p in shared if p)

    # -- choices, repeats, names -------------------------------------------------------------

    def _choice(self, expr: Choice, at: State, x: object, size: int) -> Table:
        low, high = (0, EVERY) if size == EVERY else (size, size)
        inside = plain(at.wanted)
        draft: Draft = {}
        shares = self.shares(expr)
        for i, share, pick, store in self.options(shares, at.spot, at.store, at.wanted):
            inner = State(at.spot.at(f"|{i}"), at.scope, store, inside)
            for out, vertex in self.walk(expr.alts[i].body, inner, x, low, high):
                short = out._replace(binds=())
                draft.setdefault(short, []).append((share, pick, 0, 0, 1, (vertex,)))
        return finish(draft)

    def _bind(self, body: Expr, name: str, at: State, x: object, size: int) -> Table:
        low, high = (0, EVERY) if size == EVERY else (size, size)
        draft: Draft = {}
        for out, vertex in self.walk(body, at, x, low, high):
            binds = out.binds
            if f"@{name}" in at.wanted:
                pairs = {**dict(binds), name: out.value}
                binds = tuple(sorted(pairs.items(), key=lambda b: b[0]))
            draft.setdefault(out._replace(binds=binds), []).append((1.0, -1, 0, 0, 1, (vertex,)))
        return finish(draft)

    def _repeat(self, expr: Repeat, at: State, x: object, size: int) -> Table:
        draft: Draft = {}
        spot = at.spot
        counter = spot._replace(address=f"{spot.address}/*" if spot.address else "")
        wanted = at.wanted | self.own(spot) | self.needs([expr.body], spot.env)
        counts = self.values(expr.count, COUNTS, State(counter, at.scope, at.store, wanted))
        for (count, store), chosen in counts.items():
            assert isinstance(count, int)
            inner = at._replace(store=store)
            for out, vertex in self._copies(expr.body, inner, x, count, size).items():
                draft.setdefault(out, []).append((1.0, -1, 0, 0, 1, (chosen, vertex)))
        return finish(draft)

    def _copies(self, body: Expr, at: State, x: object, count: int, size: int) -> Table:
        reach = self.reach(body, at.spot.env)

        def part(i: int) -> Part:
            spot, roots = self.copy(at.spot, i, reach.anchored)
            wanted = at.wanted
            if i < count - 1:
                wanted = wanted | roots | self.own(at.spot) | self.needs([body], at.spot.env)

            def run(state: Out, low: int, high: int) -> Found:
                inner = State(spot, at.scope, state.store, wanted)
                for out, vertex in self.walk(body, inner, state.value, low, high):
                    listed = self.gather(state.binds, out, at.wanted)
                    grown = self.grow(state._replace(binds=()), out.value, out)
                    if grown is not None:
                        yield grown._replace(binds=listed), vertex

            return Part(run, reach.floor)

        return self.chain([part(i) for i in range(count)], Out(x, (), at.store), size)

    @staticmethod
    def gather(
        before: tuple[tuple[str, object], ...], out: Out, wanted: Roots
    ) -> tuple[tuple[str, object], ...]:
        """The lists of named values, one copy longer; lists of lists stay invisible."""
        found = dict(before)
        for name, value in out.binds:
            if f"@{name}" in wanted and not isinstance(value, Many):
                earlier = found.get(name)
                old = earlier.values if isinstance(earlier, Many) else ()
                found[name] = Many((*old, value))
        return tuple(sorted(found.items(), key=lambda b: b[0]))

    def _value(self, expr: Value, scope: Mapping[str, object]) -> object:
        label = scope.get(expr.name)
        if label is None:
            raise refuse(f"'@{expr.name}' is not bound here", expr, "bind it first: f as name")
        if isinstance(label, Many):
            if expr.index is None:
                raise refuse(f"'@{expr.name}' is a list after its repeat", expr)
            if expr.index == "all":
                return label.values
            if not -len(label.values) <= expr.index < len(label.values):
                raise refuse(f"'@{expr.name}' has {len(label.values)} values", expr)
            return label.values[expr.index]
        if expr.index is not None:
            raise refuse(f"'@{expr.name}' is one value, not a list", expr)
        if expr.field is not None:
            return self.algebra.export(label, expr.field, Site("", 0, expr))
        return label

    def _attempt(self, make: Callable[[], object], at: State, size: int) -> Table:
        try:
            value = make()
        except Infeasible as error:
            self.note(error)
            return {}
        return {Out(value, (), at.store, 1): EMPTY} if size in (1, EVERY) else {}

    # -- calls -------------------------------------------------------------------------------

    def _call(self, call: Call, at: State, x: object, size: int) -> Table:
        name, spot = call.name, at.spot
        if name in spot.env.closures:
            closure = spot.env.closures[name]
            there = closure.spot._replace(module=spot.module, mnear=spot.mnear)
            inner = State(there, dict(closure.scope), at.store, plain(at.wanted))
            return self.only(closure.body, inner, x, size)
        if name in self.decls:
            return self._rule(self.decls[name], call, at, x, size)
        if self.is_form(call):
            return self.form(call, at, x, size)
        if name in self.signatures:
            return self.chain(self.op_call(call, at, x), Out((), (), at.store), size)
        self.note(refuse(f"'{name}' is neither an op nor a rule", call))
        return {}

    def only(self, body: Expr, at: State, x: object, size: int) -> Table:
        """The outcomes of one part, without the names that it binds."""
        low, high = (0, EVERY) if size == EVERY else (size, size)
        draft: Draft = {}
        for out, vertex in self.walk(body, at, x, low, high):
            edge = (1.0, -1, 0, 0, 1, (vertex,))
            draft.setdefault(out._replace(binds=()), []).append(edge)
        return finish(draft)

    def _rule(self, decl: Decl, call: Call, at: State, x: object, size: int) -> Table:
        spot = at.spot.at(decl.name)
        given = {a.name: a.value for a in call.args}
        closures = []
        for param in decl.params or ():
            text = given.get(param.name, param.default)
            if text is None:
                self.note(refuse(f"'{decl.name}' needs {param.name}=", call))
                return {}
            closures.append((param.name, self._closure(param.name, text, spot, at)))
        spot = spot._replace(env=self.env(tuple(closures)))
        if decl.kind == "let":
            path = f"let:{decl.name}"
            spot = Spot(path, path, path, path, spot.env)
        elif decl.kind == "fix":
            spot = spot._replace(address=f"fix:{decl.name}", near=f"fix:{decl.name}")
        return self.only(decl.body, State(spot, at.scope, at.store, plain(at.wanted)), x, size)

    def _closure(self, name: str, text: Expr, spot: Spot, at: State) -> Closure:
        if isinstance(text, Name) and text.id in at.spot.env.closures:
            return at.spot.env.closures[text.id]
        reach = self.reach(text, at.spot.env)
        address = f"{spot.address}:{name}" if spot.address else f"${at.spot.level() + 1}:{name}"
        near = f"{spot.near}:{name}" if spot.near and reach.anchored else ""
        scope = tuple((n, at.scope[n]) for n in reach.reads if n in at.scope)
        return Closure(text, Spot(address, near, "", "", reach.env), scope)

    # -- ops ---------------------------------------------------------------------------------

    def op_call(
        self, call: Call, at: State, x: object, texts_call: Call | None = None
    ) -> list[Part]:
        """An op: its further inputs, its parameters, itself. `x` None stands for the values that
        the parts before have made."""
        signature = self.signatures[call.name]
        try:
            texts, sources = Values.arguments(texts_call or call, signature)
        except Infeasible as error:
            self.note(error)
            return [Part(lambda state, low, high: iter(()), 0)]
        names, bodies = list(sources), [g.text for g in texts.values() if g.text is not None]
        needed = self.needs(bodies, at.spot.env)
        early = at._replace(wanted=at.wanted | needed)
        parts = self.branches([sources[n] for n in names], early, [x] * len(names), copies=False)
        defaults = {n: d.default for n, d in signature.params.items()}

        def run(state: Out, low: int, high: int) -> Found:
            assert isinstance(state.value, tuple)
            given = state.value if texts_call is None else ()
            inputs = dict(zip(names, given, strict=True))
            value = x if texts_call is None else state.value
            xs = value if isinstance(value, tuple) and signature.variadic else (value,)
            here = at._replace(store=state.store)
            for (filling, store), vertex in self.assign(texts, signature, here).items():
                assert isinstance(filling, tuple)
                params: dict[str, Scalar] = {**defaults, **dict(zip(texts, filling, strict=True))}  # type: ignore[dict-item]  # required ones are in texts
                yield from self.op(
                    call.name,
                    params,
                    xs,
                    inputs,
                    call,
                    at,
                    state._replace(store=store),
                    vertex,
                    low,
                    high,
                )

        return [*parts, Part(run, 1)]

    def op_part(
        self,
        name: str,
        params: Mapping[str, Scalar],
        inputs: Mapping[str, object],
        node: Node,
        at: State,
    ) -> Part:
        """An op on all the values that the parts before have made."""

        def run(state: Out, low: int, high: int) -> Found:
            assert isinstance(state.value, tuple)
            yield from self.op(name, params, state.value, inputs, node, at, state, EMPTY, low, high)

        return Part(run, 1)

    def op(
        self,
        name: str,
        params: Mapping[str, Scalar],
        values: Sequence[object],
        inputs: Mapping[str, object],
        node: Node,
        at: State,
        state: Out,
        before: Vertex,
        low: int,
        high: int,
    ) -> Found:
        """The outcome of an op whose arguments are values."""
        if not low <= 1 <= high:
            return
        for made in self.applied(name, params, values, inputs, node):
            found = self._outcome(name, made, node, at, state, before)
            if found is not None:
                yield found

    def _outcome(
        self, name: str, made: Answer, node: Node, at: State, state: Out, before: Vertex
    ) -> tuple[Out, Vertex] | None:
        value, cost, flops, constructor = made
        store: Store = state.store
        if at.spot.module:
            path = f"!{at.spot.module}/{name}"
            known = look(store, path)
            if known is not None and (known != constructor or name in self.layered):
                self.note(refuse(f"one module of '{name}' cannot be two", node))
                return None
            cost = 0 if known is not None else cost
            if known is None and root(path) in at.wanted:
                store = put(store, path, constructor)
        counted = self.limits.params is not None, self.limits.flops is not None
        more = Out(None, (), store, 1, cost * counted[0], flops * counted[1])
        grown = self.grow(state, value, more)
        if grown is None:
            return None
        below = () if before is EMPTY else (before,)
        if not (cost or flops or below):
            return grown, EMPTY
        return grown, Vertex([(1.0, -1, cost, flops, 1, below)])

    layered: frozenset[str] = frozenset()

    def applied(
        self,
        name: str,
        params: Mapping[str, Scalar],
        values: Sequence[object],
        inputs: Mapping[str, object],
        node: Node,
    ) -> tuple[Answer, ...]:
        """The algebra's answers, asked once; none is a refusal."""
        key = (name, tuple(params.values()), tuple(values), tuple(inputs.items()))
        if key not in self._applied:
            try:
                made = self.ask(name, params, values, inputs, Site("", 0, node))
            except Infeasible as error:
                self.note(error)
                made = ()
            self._applied[key] = tuple(
                (m.value, m.params, m.flops, frozen_of(m.constructor)) for m in made
            )
        return self._applied[key]

    def ask(
        self,
        name: str,
        params: Mapping[str, Scalar],
        values: Sequence[object],
        inputs: Mapping[str, object],
        site: Site,
    ) -> Sequence[Applied]:
        """One result, unless the algebra knows several that this op may stand for."""
        if isinstance(self.algebra, Several):
            return self.algebra.alternatives(name, params, values, inputs, site)
        return (self.algebra.apply(name, params, values, inputs, site),)


def plain(wanted: Roots) -> Roots:
    """Without names: they do not leave a choice or a rule."""
    return frozenset(w for w in wanted if w[0] != "@")


def frozen_of(constructor: object) -> object:
    """Constructor arguments as something that can be compared and hashed, never None."""
    if isinstance(constructor, Mapping):
        return tuple(sorted((k, repr(v)) for k, v in constructor.items()))
    return repr(constructor)


def takes_parts(call: Call, parts: Sequence[Expr], variadic: bool, is_op: bool) -> bool:
    """Whether a call is a form, or an op of any number of values that are given as parts."""
    if not is_op or not (call.name in FORMS or variadic):
        return call.name in FORMS
    return bool(parts)
