"""Ops in the exact walk, and the chains that lead to them.

A chain makes one part after the other and merges what has become equal on the way; the parts of
an op are its inputs, its parameters and the op itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from grammar.ast import Call, Expr, Node
from grammar.domain import Scalar
from grammar.errors import SpaceError
from grammar.exact_state import (
    EMPTY,
    EVERY,
    Draft,
    Out,
    Spot,
    Store,
    Table,
    Vertex,
    finish,
    look,
    put,
    root,
)
from grammar.exact_values import Fill, Roots, State
from grammar.values import Values
from grammar.walk import Applied, Infeasible, Site, refuse


class TooLarge(SpaceError):
    """The sums are longer than allowed; an estimate may still be had."""


Found: TypeAlias = Iterator[tuple[Out, Vertex]]
Answer: TypeAlias = tuple[object, int, int, object, int]


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


class Ops(Fill):
    """How parts follow each other, and what an op makes of them."""

    _memo: dict[object, Table | None]
    _applied: dict[object, tuple[Answer, ...]]

    def walk(self, expr: Expr, at: State, x: object, low: int, high: int) -> Found:
        """The outcomes of `expr` with `low..high` nodes."""
        raise NotImplementedError

    def step(self, count: int) -> None:
        """Count the work. Raises: TooLarge beyond the cap."""
        self.steps += count
        if self.cap is not None and self.steps > self.cap:
            raise TooLarge(f"the sums over this space take more than {self.cap:,} steps")

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
        memory, limits = state.memory + more.memory, self.limits
        if limits.params is not None and params > limits.params:
            return None
        if limits.flops is not None and flops > limits.flops:
            return None
        if limits.memory is not None and memory > limits.memory:
            return None
        binds = state.binds
        if more.binds:
            binds = tuple(sorted({**dict(binds), **dict(more.binds)}.items(), key=lambda b: b[0]))
        return Out(value, binds, more.store, state.nodes + more.nodes, params, flops, memory)

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
            spot.output,
        )
        shared = (inner.near, inner.mnear) if anchored else ()
        return inner, frozenset(root(p) for p in shared if p)

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
        for made in self.applied(
            name, params, values, inputs, Site("", 0, node, output=at.spot.output)
        ):
            found = self._outcome(name, made, node, at, state, before)
            if found is not None:
                yield found

    def _outcome(
        self, name: str, made: Answer, node: Node, at: State, state: Out, before: Vertex
    ) -> tuple[Out, Vertex] | None:
        value, cost, flops, constructor, memory = made
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
        limits = self.limits
        a, b, c = (limit is not None for limit in (limits.params, limits.flops, limits.memory))
        more = Out(None, (), store, 1, cost * a, flops * b, memory * c)
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
        site: Site,
    ) -> tuple[Answer, ...]:
        """The algebra's answers, asked once; none is a refusal."""
        key = (name, tuple(params.values()), tuple(values), tuple(inputs.items()), site.output)
        if key not in self._applied:
            try:
                made = self.ask(name, params, values, inputs, site)
            except Infeasible as error:
                self.note(error)
                made = ()
            self._applied[key] = tuple(
                (m.value, m.params, m.flops, frozen_of(m.constructor), m.memory) for m in made
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


def frozen_of(constructor: object) -> object:
    """Constructor arguments as something that can be compared and hashed, never None."""
    if isinstance(constructor, Mapping):
        return tuple(sorted((k, repr(v)) for k, v in constructor.items()))
    return repr(constructor)
