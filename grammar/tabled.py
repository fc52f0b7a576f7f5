"""The exact walk over an algebra of finitely many values: each part once a value, no sizes.

`Inside` asks a part that may reach itself for an exact number of nodes, because its values never
end. Where they are the places of one finished graph, a table of all outcomes is finite, and a part
that reaches itself on the same value is a system of equations. It is solved from below: what is
known of a table in progress is handed out, and the outermost table concerned is made again until
nothing new comes. The forest that is left may have cycles; every cycle has a free node (`id` or
`@e`), which counts 1 in the edges' params, so `grammar/graded.py` can sum it by their number.

Source: memoing of left recursion (Warth, Douglass & Millstein 2008); tabling (Tamaki & Sato 1986).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from grammar.ast import Call, Expr, Space, deep
from grammar.errors import SpaceError
from grammar.exact_forms import Inside
from grammar.exact_ops import Answer, Found, Part
from grammar.exact_state import EMPTY, EVERY, Branches, Edge, Out, Spot, Table, Vertex, join
from grammar.exact_values import State
from grammar.values import Values
from grammar.walk import Algebra, Infeasible, Limits, Sample, Site, refuse

DONE = -1
IDLE = -2
FAR = 1 << 60

Fits = Callable[[object, object, int], bool]  # value in, value out, flops spent on the way


class Unending(SpaceError):
    """Recursion through an argument or a shared choice: what is shared has no end without sizes."""


@dataclass(slots=True)
class _Entry:
    """A table: its outcomes so far, where it stands on the stack (or DONE, or IDLE), the round in
    which it was last made, and the lowest place on the stack that it looked at then."""

    table: Table = field(default_factory=dict)
    place: int = IDLE
    round: int = -1
    low: int = FAR


class Tabled(Inside):
    """All derivations of one value, identities free. `fits` may drop outcomes of parts; with
    `alike`, copies that `same` shares come from one value, or are none of what is looked for."""

    def __init__(
        self,
        space: Space,
        algebra: Algebra,
        limits: Limits,
        *,
        layered: frozenset[str] = frozenset(),
        fits: Fits | None = None,
        alike: bool = False,
        cap: int | None = None,
    ) -> None:
        super().__init__(space, algebra, limits)
        self._memo, self._applied, self.layered, self.cap = {}, {}, layered, cap
        self.fits, self.alike = fits, alike
        self._entries: dict[object, _Entry] = {}
        self._pending: list[_Entry] = []
        self._depth = self._round = self._rounds = self._grown = 0
        self._low = FAR

    def root(self, ahead: list[object]) -> Vertex:
        """The vertex of all derivations that cost exactly the limits of params and flops.

        `ahead` are values in an order in which recursion is shallow: those first from which the
        end is near. Raises: SpaceError where there is none.
        """
        start = Values(self.space, Sample(random.Random(0))).sentence()
        inputs = self.algebra.inputs()
        x = next(iter(inputs.values())) if len(inputs) == 1 else None
        blank = Spot("", "", "", "", self.blank)
        with deep():
            for value in ahead:
                for name in sorted(self.static.recursive):
                    decl = self.decls[name]
                    if decl.kind == "rule" and not decl.params:
                        at = State(blank, dict(inputs), (), frozenset())
                        list(self.walk(decl.body, at, value, 0, EVERY))
            at = State(blank, dict(inputs), (), frozenset())
            edges = [
                (1.0, -1, 0, 0, 1, (vertex,))
                for out, vertex in self.walk(start, at, x, 0, EVERY)
                if self._ends(out, start)
            ]
        if not edges:
            raise self.refusal or SpaceError("no sentence of this space fits")
        return Vertex(list(edges))

    def _ends(self, out: Out, start: Expr) -> bool:
        value, limits = out.value, self.limits
        if isinstance(value, Branches):
            value = dict(zip(value.names, value.values, strict=True))
        try:
            self.algebra.finish(value, Site("", 0, start))
        except Infeasible as error:
            self.note(error)
            return False
        spent = (out.params, limits.params), (out.flops, limits.flops)
        return all(limit is None or own == limit for own, limit in spent)

    # -- tables ------------------------------------------------------------------------------

    def chain(self, parts: Sequence[Part], start: Out, size: int) -> Table:
        if self.fits is None:
            return super().chain(parts, start, size)
        return super().chain([self._fitting(part, start.value) for part in parts], start, size)

    def _fitting(self, part: Part, x: object) -> Part:
        def run(state: Out, low: int, high: int) -> Found:
            for out, vertex in part.run(state, low, high):
                if self.fits is None or self.fits(x, out.value, out.flops):
                    yield out, vertex

        return Part(run, part.floor)

    def _mapped(self, body: Expr, at: State, xs: tuple[object, ...], size: int) -> Table:
        if self.alike and isinstance(body, Call) and body.name == "same":
            self.note(refuse("these branches are not alike", body))
            return {}
        return super()._mapped(body, at, xs, size)

    def walk(self, expr: Expr, at: State, x: object, low: int, high: int) -> Found:
        cut, frame = self.settle(expr, at)
        if any(cut.spot[:4]) and self.reach(expr, at.spot.env).recursive:
            raise Unending("recursion within a choice that is shared", span=expr.span)
        table = self.table(expr, cut, x, EVERY)
        self.step(len(table) + 1)
        for out, vertex in list(table.items()):
            yield (out._replace(store=join(frame, out.store)) if frame else out), vertex

    def table(self, expr: Expr, at: State, x: object, size: int) -> Table:
        key = (id(expr), at.spot, x, self.names(at.scope), at.store, at.wanted)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry()
            self._held.append(expr)
        if entry.place >= 0 or (entry.place == IDLE and entry.round == self._round):
            self._low = min(self._low, entry.place if entry.place >= 0 else entry.low)
        elif entry.place == IDLE:
            self._settled(entry, expr, at, x)
        return entry.table

    def _settled(self, entry: _Entry, expr: Expr, at: State, x: object) -> None:
        """Makes a table: for good, unless it has looked at one further out that is in progress."""
        outer, before = self._low, self._round
        entry.place, start = self._depth, len(self._pending)
        self._depth += 1
        while True:
            grown, self._low = self._grown, FAR
            self._take(entry, self._tidy(self.compute(expr, at, x, EVERY), at.wanted), x)
            alone = self._low >= entry.place
            if not alone or self._low == FAR or self._grown == grown:
                break
            del self._pending[start:]
            self._rounds += 1
            self._round = self._rounds
        self._depth -= 1
        self._round, entry.place = before, DONE if alone else IDLE
        if alone:
            for below in self._pending[start:]:
                below.place = DONE
            del self._pending[start:]
            self._low = outer
        else:
            self._pending.append(entry)
            for below in self._pending[start:]:
                below.round = before
            entry.low = self._low
            self._low = min(outer, self._low)

    def _take(self, entry: _Entry, made: Table, x: object) -> None:
        for out, vertex in made.items():
            if self.fits is not None and not self.fits(x, out.value, out.flops):
                continue
            known = entry.table.get(out)
            if known is None:
                self._grown += 1
                known = entry.table[out] = Vertex([])
            known.edges = [(1.0, -1, 0, 0, 1, (vertex,))]

    # -- what counts -------------------------------------------------------------------------

    def _attempt(self, make: Callable[[], object], at: State, size: int) -> Table:
        found = super()._attempt(make, at, size)
        return {out._replace(nodes=0): _free() for out in found}

    def _outcome(
        self, name: str, made: Answer, node: object, at: State, state: Out, before: Vertex
    ) -> tuple[Out, Vertex] | None:
        found = super()._outcome(name, made, node, at, state, before)  # type: ignore[arg-type]  # a Node
        if found is None:
            return None
        below = () if before is EMPTY else (before,)
        free = made[2] == 0
        edge: Edge = (1.0, -1, int(free), 0, 1, below)
        vertex = Vertex([edge]) if free or below else EMPTY
        return found[0]._replace(nodes=0), vertex


def _free() -> Vertex:
    return Vertex([(1.0, -1, 1, 0, 1, ())])
