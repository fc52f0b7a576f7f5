"""Sums over the forms that hold expressions: the exact twin of `grammar/structure.py`."""

from dataclasses import replace

from grammar.ast import Call, Expr
from grammar.exact_ops import Found, Part
from grammar.exact_state import (
    EMPTY,
    EVERY,
    Branches,
    Draft,
    Names,
    Out,
    Spot,
    Table,
    Vertex,
    finish,
)
from grammar.exact_values import State, part_texts
from grammar.exact_walk import Flow, plain, takes_parts
from grammar.walk import Infeasible, Site, refuse


class Inside(Flow):
    """The whole exact walk."""

    def is_form(self, call: Call) -> bool:
        signature = self.signatures.get(call.name)
        parts = part_texts(call, self.signatures)
        return takes_parts(
            call, parts, signature is not None and signature.variadic, signature is not None
        )

    def form(self, call: Call, at: State, x: object, size: int) -> Table:
        args, name = part_texts(call, self.signatures), call.name
        start = Out((), (), at.store)
        if name in self.signatures:  # add mul cat dot with arguments
            kept_args = tuple(a for a in call.args if a.name or a.value not in args)
            rest = replace(call, args=kept_args)
            late = [a.value for a in kept_args]
            early = at._replace(wanted=at.wanted | self.needs(late, at.spot.env))
            parts = self.branches(args, early, [x] * len(args), copies=False)
            return self.chain([*parts, *self.op_call(call, at, None, rest)], start, size)
        if name == "outputs":
            bodies, names = [a.value for a in call.args], tuple(a.name or "" for a in call.args)
            spots = [at._replace(spot=at.spot._replace(output=name)) for name in names]
            parts = [self._branch(bodies, i, spots[i], x, copies=False) for i in range(len(names))]
            table = self.chain(parts, start, size)
            return {o._replace(value=Branches(names, o.value)): v for o, v in table.items()}  # type: ignore[arg-type]  # branches give a tuple
        if name == "residual":
            wanted = at.wanted | self.own(at.spot)
            below = at._replace(spot=at.spot.at("f"), wanted=wanted)
            parts = [self._part(args[0], below, x), self._residual(call, at, x)]
            return self.chain(parts, start, size)
        if name == "fork":
            return self.chain(self.branches(args, at, [x] * len(args), copies=False), start, size)
        if name in ("each", "cross"):
            return self._each(call, args, at, x, size)
        if name == "items":
            return self._items(call, args[0], at, x, size)
        return self._shared(call, args[0], at, x, size)

    def _part(self, body: Expr, at: State, x: object) -> Part:
        def run(state: Out, low: int, high: int) -> Found:
            for out, vertex in self.walk(body, at._replace(store=state.store), x, low, high):
                grown = self.grow(state, out.value, out)
                if grown is not None:
                    yield grown, vertex

        return Part(run, self.reach(body, at.spot.env).floor)

    def _residual(self, call: Call, at: State, x: object) -> Part:
        def run(state: Out, low: int, high: int) -> Found:
            pair = (x, state.value)
            yield from self.op("add", {}, pair, {}, call, at, state, EMPTY, low, high)

        return Part(run, 1)

    def _shared(self, call: Call, body: Expr, at: State, x: object, size: int) -> Table:
        """`same` and `tied`: at the address that all copies of the enclosing repeat share."""
        spot = at.spot
        if call.name == "same":
            near = spot.near or spot.address
            address = f"{near}/same" if near else ""
            there = spot._replace(address=address, near=address)
            low, high = (0, EVERY) if size == EVERY else (size, size)
            return dict(self.walk(body, at._replace(spot=there), x, low, high))
        anchor = spot.mnear or spot.module
        path = f"{anchor}/tied" if anchor else ""
        there = Spot(path, path, path, path, spot.env, spot.output)
        return self.only(body, at._replace(spot=there, wanted=plain(at.wanted)), x, size)

    # -- tuples and lists --------------------------------------------------------------------

    def _each(self, call: Call, args: list[Expr], at: State, x: object, size: int) -> Table:
        if not isinstance(x, tuple):
            self.note(refuse(f"'{call.name}' needs a tuple", call, "make one with fork(a, b)"))
            return {}
        xs: tuple[object, ...] = tuple(x)
        if call.name == "cross":
            if len(x) != 2 or not all(isinstance(side, tuple) for side in x):
                self.note(refuse("'cross' needs a tuple of two tuples", call))
                return {}
            xs = tuple((a, b) for a in x[0] for b in x[1])
        if len(args) not in (1, len(xs)):
            self.note(refuse(f"'each' has {len(args)} parts for a tuple of {len(xs)}", call))
            return {}
        start = Out((), (), at.store)
        if len(args) > 1:
            return self.chain(self.branches(args, at, xs, copies=True), start, size)
        if self._alike(args[0], at, xs):
            return self._power(args[0], at, xs[0], len(xs), size)
        return self._mapped(args[0], at, xs, size)

    def _alike(self, body: Expr, at: State, xs: tuple[object, ...]) -> bool:
        """Whether all copies are one derivation on one value, with modules of their own."""
        if not (isinstance(body, Call) and body.name == "same") or at.spot.module:
            return False
        inner = body.args[0].value
        reach, refs = self.reach(inner, at.spot.env), self.static.refs(inner)
        lets = any(self.decls[n].kind == "let" for n in refs.decls)
        bound = bool(reach.binds & (at.wanted | reach.live))
        return not (reach.anchored or lets or bound) and all(x == xs[0] for x in xs)

    def _power(self, body: Expr, at: State, x: object, count: int, size: int) -> Table:
        """All copies at once: one derivation, `count` times its nodes and costs."""
        assert isinstance(body, Call)
        if size != EVERY and size % count:
            return {}
        low, high = (0, EVERY) if size == EVERY else (size // count, size // count)
        spot, _ = self.copy(at.spot, 0, False)
        address = f"{spot.near}/same" if spot.near else ""
        there = spot._replace(address=address, near=address)
        draft: Draft = {}
        for out, vertex in self.walk(body.args[0].value, at._replace(spot=there), x, low, high):
            costs = [count * c for c in (out.nodes, out.params, out.flops, out.memory)]
            scaled = Out(None, (), out.store, *costs)
            grown = self.grow(Out(None, (), ()), (out.value,) * count, scaled)
            if grown is not None:
                draft.setdefault(grown, []).append((1.0, -1, 0, 0, count, (vertex,)))
        return finish(draft)

    def _mapped(self, body: Expr, at: State, xs: tuple[object, ...], size: int) -> Table:
        """One body over a tuple: names flow from copy to copy, and are lists afterwards."""
        reach = self.reach(body, at.spot.env)
        flowing = reach.binds & reach.live

        def part(i: int) -> Part:
            spot, roots = self.copy(at.spot, i, reach.anchored)
            wanted = at.wanted | flowing
            if i < len(xs) - 1:
                wanted = wanted | roots | self.own(at.spot) | self.needs([body], at.spot.env)

            def run(state: Out, low: int, high: int) -> Found:
                values, lists, last = _parts(state)
                scope = {**at.scope, **dict(last)}
                inner = State(spot, scope, state.store, wanted)
                for out, vertex in self.walk(body, inner, xs[i], low, high):
                    listed = self.gather(lists, out, at.wanted)
                    flow = out.binds if flowing else ()
                    made = ((*values, out.value), listed, flow)
                    grown = self.grow(state, made, out._replace(binds=()))
                    if grown is not None:
                        yield grown, vertex

            return Part(run, reach.floor)

        table = self.chain([part(i) for i in range(len(xs))], Out((), (), at.store), size)
        draft: Draft = {}
        for out, vertex in table.items():
            values, listed, _ = _parts(out)
            short = out._replace(value=values, binds=listed)
            draft.setdefault(short, []).append((1.0, -1, 0, 0, 1, (vertex,)))
        return finish(draft)

    def _items(self, call: Call, body: Expr, at: State, x: object, size: int) -> Table:
        site = Site("", 0, call)
        try:
            inner = self.algebra.fold(x, site)
        except Infeasible as error:
            self.note(error)
            return {}
        low, high = (0, EVERY) if size == EVERY else (size, size)
        there = State(at.spot.at("item"), {}, at.store, plain(at.wanted))
        draft: dict[Out, list[tuple[float, int, int, int, int, tuple[Vertex, ...]]]] = {}
        for out, vertex in self.walk(body, there, inner, low, high):
            try:
                value = self.algebra.unfold(out.value, x, site)
            except Infeasible as error:
                self.note(error)
                continue
            whole = out._replace(value=value, binds=())
            draft.setdefault(whole, []).append((1.0, -1, 0, 0, 1, (vertex,)))
        return finish(draft)


def _parts(out: Out) -> tuple[tuple[object, ...], Names, Names]:
    """Of an outcome in the midst of `each`: values so far, lists so far, names of the last copy,
    as `_mapped` made them."""
    assert isinstance(out.value, tuple)
    return out.value or ((), (), ())
