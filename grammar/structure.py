"""The forms that hold expressions: branches, maps over tuples and lists, shared parts.

`Structure` is the part of the walk that needs no op table; `grammar/derive.py` completes it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from grammar.ast import Arg, Call, Expr, Name, Node
from grammar.domain import Signature
from grammar.parts import Place, Scope, Step, listed, shared
from grammar.values import Values
from grammar.walk import Algebra, Infeasible, Site, refuse


class Structure(Values):
    """Ways to combine parts; what a part is, and what an op does, is said below it."""

    algebra: Algebra
    signatures: Mapping[str, Signature]

    def walk(self, expr: Expr, place: Place, x: object, scope: Scope) -> Iterator[Step]:
        """All results of a part."""
        raise NotImplementedError

    def op_call(self, call: Call, place: Place, x: object, scope: Scope) -> Iterator[Step]:
        """All results of an op with its arguments."""
        raise NotImplementedError

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
        """The result of an op whose arguments are values."""
        raise NotImplementedError

    def let(self, name: str, body: Expr, place: Place, x: object, scope: Scope) -> Iterator[Step]:
        """A part that is one module wherever it is used."""
        raise NotImplementedError

    def chain(
        self, makers: Sequence[Callable[[Step | None], Iterator[Step]]]
    ) -> Iterator[list[Step]]:
        """All ways to make the parts one after the other, without recursion over their number."""
        done: list[Step] = []
        walks = [makers[0](None)]
        while walks:
            step = next(walks[-1], None)
            if step is None:
                walks.pop()
                if done:
                    done.pop()
                continue
            done.append(step)
            if len(done) == len(makers):
                yield list(done)
                done.pop()
            else:
                walks.append(makers[len(done)](step))

    def branches(
        self, items: Sequence[Expr], place: Place, xs: Sequence[object], scope: Scope, copies: bool
    ) -> Iterator[list[Step]]:
        """`items[i]` on `xs[i]`, names flowing from one to the next."""

        def maker(i: int) -> Callable[[Step | None], Iterator[Step]]:
            spot = place.copy(i) if copies else place.at(i)
            return lambda before: self.walk(
                items[i], spot, xs[i], before.scope if before else scope
            )

        yield from self.chain([maker(i) for i in range(len(items))])

    def parts(self, call: Call) -> list[Expr]:
        """The expressions among the arguments: what has no name and is no flag."""
        signature = self.signatures.get(call.name)
        flags = signature.params if signature else {}
        return [
            a.value
            for a in call.args
            if a.name is None and not (isinstance(a.value, Name) and a.value.id in flags)
        ]

    def form(self, call: Call, place: Place, x: object, scope: Scope) -> Iterator[Step]:
        args, name = self.parts(call), call.name
        if name in self.signatures:  # add mul cat dot with arguments
            for steps in self.branches(args, place, [x] * len(args), scope, copies=False):
                kept_args = tuple(a for a in call.args if a.name or a.value not in args)
                rest = replace(call, args=kept_args)
                values = tuple(s.value for s in steps)
                last = steps[-1].scope
                for step in self.op_call(rest, place, values, last):
                    inner = tuple(Arg(None, s.expr) for s in steps)
                    kept = step.expr.args if isinstance(step.expr, Call) else ()
                    yield Step(Call(name, inner + kept, span=call.span), step.value, last)
        elif name == "outputs":
            yield from self._outputs(call, place, x, scope)
        elif name == "residual":
            for step in self.walk(args[0], place.at("f"), x, scope):
                closed = Call("residual", (Arg(None, step.expr),), span=call.span)
                pair = [x, step.value]
                yield from self.op("add", {}, pair, {}, call, place, closed, step.scope)
        elif name == "fork":
            for steps in self.branches(args, place, [x] * len(args), scope, copies=False):
                closed = Call("fork", tuple(Arg(None, s.expr) for s in steps), span=call.span)
                yield Step(closed, tuple(s.value for s in steps), steps[-1].scope)
        elif name in ("each", "cross"):
            yield from self._each(call, args, place, x, scope)
        elif name == "items":
            yield from self._items(call, args[0], place, x, scope)
        elif name == "same":
            spot = replace(place, address=shared(place.address) + "/same")
            yield from self.walk(args[0], spot, x, scope)
        else:  # tied
            yield from self.let(shared(place.module) + "/tied", args[0], place, x, scope)

    def _outputs(self, call: Call, place: Place, x: object, scope: Scope) -> Iterator[Step]:
        names = [a.name or "" for a in call.args]

        def maker(i: int) -> Callable[[Step | None], Iterator[Step]]:
            spot, body = replace(place.at(i), output=names[i]), call.args[i].value
            return lambda before: self.walk(body, spot, x, before.scope if before else scope)

        for steps in self.chain([maker(i) for i in range(len(names))]):
            parts = tuple(Arg(n, s.expr) for n, s in zip(names, steps, strict=True))
            value = dict(zip(names, (s.value for s in steps), strict=True))
            yield Step(Call("outputs", parts, span=call.span), value, steps[-1].scope)

    def _each(
        self, call: Call, args: list[Expr], place: Place, x: object, scope: Scope
    ) -> Iterator[Step]:
        if not isinstance(x, tuple):
            self.note(refuse(f"'{call.name}' needs a tuple", call, "make one with fork(a, b)"))
            return
        xs: tuple[object, ...] = tuple(x)
        if call.name == "cross":
            if len(x) != 2 or not all(isinstance(side, tuple) for side in x):
                self.note(refuse("'cross' needs a tuple of two tuples", call))
                return
            xs = tuple((a, b) for a in x[0] for b in x[1])
        if len(args) not in (1, len(xs)):
            self.note(refuse(f"'each' has {len(args)} parts for a tuple of {len(xs)}", call))
            return
        bodies = args * len(xs) if len(args) == 1 else args
        for steps in self.branches(bodies, place, xs, scope, copies=True):
            closed = tuple(Arg(None, s.expr) for s in steps)
            if call.name == "cross":
                if any(s.expr != steps[0].expr for s in steps):
                    self.note(refuse("'cross' takes one part for all pairs: use same(...)", call))
                    continue
                closed = closed[:1]
            visible = listed(scope, steps) if len(args) == 1 else steps[-1].scope
            value = tuple(s.value for s in steps)
            yield Step(Call(call.name, closed, span=call.span), value, visible)

    def _items(
        self, call: Call, body: Expr, place: Place, x: object, scope: Scope
    ) -> Iterator[Step]:
        site = Site(place.module, 0, call)
        try:
            inner = self.algebra.fold(x, site)
        except Infeasible as error:
            self.note(error)
            return
        for step in self.walk(body, place.at("item"), inner, {}):
            try:
                value = self.algebra.unfold(step.value, x, site)
            except Infeasible as error:
                self.note(error)
                continue
            yield Step(Call("items", (Arg(None, step.expr),), span=call.span), value, scope)
