"""The walk that sums instead of choosing: every part gives all its outcomes, each with a vertex.

It goes through a sentence in the order of `Walk` and means the same by it. Outcomes that no later
part can tell apart are one, so the tables stay small where the derivations are many. A part that
may reach itself is asked for an exact number of nodes, which makes recursion finite.
"""

from collections.abc import Callable, Mapping, Sequence

from grammar.ast import Bind, Call, Choice, Decl, Expr, Name, Repeat, Seq, Sum, Value
from grammar.errors import SpaceError
from grammar.exact_ops import Found, Ops, Part
from grammar.exact_state import (
    EMPTY,
    EVERY,
    Closure,
    Draft,
    Many,
    Names,
    Out,
    Spot,
    Table,
    finish,
    join,
    kept,
)
from grammar.exact_values import Roots, State
from grammar.forms import FORMS
from grammar.values import COUNTS
from grammar.walk import Infeasible, Site, refuse


class Flow(Ops):
    """Sequence, choice, names and ops; the forms stand in `grammar/exact_forms.py`."""

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
        self.step((sum(map(len, tables)) + len(tables)) * (1 + 2 * len(at.store)))
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
            there = closure.spot._replace(module=spot.module, mnear=spot.mnear, output=spot.output)
            inner = State(there, dict(closure.scope), at.store, _inside(at.wanted, closure))
            return self._renamed(
                closure.body, inner, x, size, lambda b: {closure.carried(n): v for n, v in b}
            )
        if name in self.decls:
            return self._rule(self.decls[name], call, at, x, size)
        if self.is_form(call):
            return self.form(call, at, x, size)
        if name in self.signatures:
            return self.chain(self.op_call(call, at, x), Out((), (), at.store), size)
        self.note(refuse(f"'{name}' is neither an op nor a rule", call))
        return {}

    def _renamed(
        self,
        body: Expr,
        at: State,
        x: object,
        size: int,
        rename: Callable[[Names], Mapping[str, object]],
    ) -> Table:
        """The outcomes of one part, the names that it binds under others."""
        low, high = (0, EVERY) if size == EVERY else (size, size)
        draft: Draft = {}
        for out, vertex in self.walk(body, at, x, low, high):
            binds = tuple(sorted(rename(out.binds).items(), key=lambda b: b[0]))
            edge = (1.0, -1, 0, 0, 1, (vertex,))
            draft.setdefault(out._replace(binds=binds), []).append(edge)
        return finish(draft)

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
            spot = Spot(path, path, path, path, spot.env, spot.output)
            return self.only(decl.body, State(spot, at.scope, at.store, plain(at.wanted)), x, size)
        if decl.kind == "fix":
            spot = spot._replace(address=f"fix:{decl.name}", near=f"fix:{decl.name}")
        fresh = [c for _, c in closures if c not in at.spot.env.closures.values()]
        inner = State(spot, at.scope, at.store, _through(at.wanted, fresh))
        origins = [c.spot.address for c in fresh]
        return self._renamed(decl.body, inner, x, size, lambda b: _handed_back(origins, b))

    def _closure(self, name: str, text: Expr, spot: Spot, at: State) -> Closure:
        if isinstance(text, Name) and text.id in at.spot.env.closures:
            return at.spot.env.closures[text.id]
        reach = self.reach(text, at.spot.env)
        address = f"{spot.address}:{name}" if spot.address else f"${at.spot.level() + 1}:{name}"
        near = f"{spot.near}:{name}" if spot.near and reach.anchored else ""
        scope = tuple((n, at.scope[n]) for n in reach.reads if n in at.scope)
        return Closure(text, Spot(address, near, "", "", reach.env), scope)


def plain(wanted: Roots) -> Roots:
    """Without names: they do not leave a choice or a rule."""
    return frozenset(w for w in wanted if w[0] != "@")


def _through(wanted: Roots, closures: Sequence[Closure]) -> Roots:
    """What is wanted of a rule's body, so that names of its arguments reach the caller."""
    names = [w[1:] for w in wanted if w[0] == "@"]
    own = {f"@{c.carried(n)}" for c in closures for n in names if ">" not in n}
    return plain(wanted) | own | {f"@{n}" for n in names if ">" in n}


def _inside(wanted: Roots, closure: Closure) -> Roots:
    """What is wanted of the text of an argument."""
    carried = {w for w in wanted if w[0] == "@" and ">" in w}
    start = f"@{closure.carried('')}"
    own = {f"@{w.removeprefix(start)}" for w in carried if w.startswith(start)}
    return plain(wanted) | own | carried


def _handed_back(origins: Sequence[str], binds: Names) -> Mapping[str, object]:
    """A rule's names as its caller sees them: those of the arguments alone; where two bind the
    same one, the later parameter's."""
    found = {}
    for name, value in binds:
        if ">" in name and name.rpartition(">")[0] not in origins:
            found[name] = value
    for origin in origins:
        for name, value in binds:
            if name.rpartition(">")[0] == origin:
                found[name.rpartition(">")[2]] = value
    return found


def takes_parts(call: Call, parts: Sequence[Expr], variadic: bool, is_op: bool) -> bool:
    """Whether a call is a form, or an op of any number of values that are given as parts."""
    if not is_op or not (call.name in FORMS or variadic):
        return call.name in FORMS
    return bool(parts)
