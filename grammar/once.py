"""The exact walk that carries on one outcome; see `grammar/sequential.py`."""

import math
import random
from collections.abc import Callable, Sequence
from itertools import accumulate

from grammar.ast import Choice, Expr, Space
from grammar.blurry import Blur, Blurry, log_mass
from grammar.exact_forms import Inside
from grammar.exact_ops import Found, Part
from grammar.exact_state import (
    EMPTY,
    Draft,
    Env,
    Out,
    Table,
    Vertex,
    finish,
)
from grammar.exact_values import State
from grammar.exact_walk import plain
from grammar.walk import Algebra, Limits

DOUBT = 1e-3


class Dead(Exception):
    """Nothing can follow here."""


class Once(Inside):
    """The walk that carries on one outcome."""

    def __init__(
        self, space: Space, algebra: Algebra, limits: Limits, blurry: Blurry, blur: Blur
    ) -> None:
        super().__init__(space, algebra, limits)
        self._memo, self._applied = {}, {}
        self.blurry, self.blur = blurry, blur
        self.exactly = 0
        self.rng = random.Random(0)
        self.log_q = 0.0
        self.base, self.scale = (0, 0, 0), 1
        self._nexts: dict[int, Callable[[Out, int], float]] = {}

    # -- one choice ---------------------------------------------------------------------------

    def take(self, weights: Sequence[float]) -> int:
        """An index by weight; its probability counts. Raises: Dead where all weigh nothing."""
        total = math.fsum(weights)
        if total <= 0:
            raise Dead
        wheel = list(accumulate(weights))
        i = self.rng.choices(range(len(weights)), cum_weights=wheel)[0]
        self.log_q += math.log(weights[i] / total)
        return i

    def walk(self, expr: Expr, at: State, x: object, low: int, high: int) -> Found:
        if self.exactly:
            yield from super().walk(expr, at, x, low, high)
            return
        cut, frame = self.settle(expr, at)
        if not self.reach(expr, at.spot.env).recursive:
            self.exactly += 1
            try:
                found = list(super().walk(expr, at, x, low, high))
            finally:
                self.exactly -= 1
            yield from found
            return
        table = self._tidy(self.compute(expr, cut, x, high), cut.wanted)
        for out, vertex in table.items():
            store = tuple(sorted((*frame, *out.store))) if frame else out.store
            yield out._replace(store=store), vertex

    def affords(self, out: Out) -> bool:
        """Whether an outcome and all that is spent before it are within the budget."""
        limits = self.limits.params, self.limits.flops, self.limits.memory
        spent = out.params, out.flops, out.memory
        return all(
            limit is None or before + self.scale * own <= limit
            for limit, before, own in zip(limits, self.base, spent, strict=True)
        )

    def _choice(self, expr: Choice, at: State, x: object, size: int) -> Table:
        if self.exactly:
            return super()._choice(expr, at, x, size)
        found = list(self.options(self.shares(expr), at.spot, at.store, at.wanted))
        weights = [0.0] * len(found)
        env, dull = at.spot.env, self.blur(x)
        for k, (i, share, _, _) in enumerate(found):
            body = expr.alts[i].body
            reach = self.reach(body, env)
            if not reach.recursive:
                inner = State(at.spot.at(f"|{i}"), at.scope, found[k][3], frozenset())
                weights[k] = share * sum(
                    math.exp(log_mass(v))
                    for o, v in self.walk(body, inner, x, size, size)
                    if self.affords(o)
                )
            elif reach.floor <= size:
                weights[k] = share * self.blurry.mass(body, env, dull, size)
        if len(found) > 1:
            doubt = DOUBT * math.fsum(weights)
            for k, (i, share, _, _) in enumerate(found):
                reach = self.reach(expr.alts[i].body, env)
                if not weights[k] and reach.recursive and reach.floor <= size:
                    weights[k] = share * (doubt or 1.0)
        i, share, pick, store = found[self.take(weights)]
        inner = State(at.spot.at(f"|{i}"), at.scope, store, plain(at.wanted))
        draft: Draft = {}
        for out, vertex in self.walk(expr.alts[i].body, inner, x, size, size):
            short = out._replace(binds=())
            draft.setdefault(short, []).append((share, pick, 0, 0, 1, (vertex,)))
        return finish(draft)

    def _power(self, body: Expr, at: State, x: object, count: int, size: int) -> Table:
        if self.exactly:
            return super()._power(body, at, x, count, size)
        self.scale *= count
        try:
            return super()._power(body, at, x, count, size)
        finally:
            self.scale //= count

    # -- chains --------------------------------------------------------------------------------

    def flow(self, items: Sequence[Expr], i: int, at: State) -> Part:
        part = super().flow(items, i, at)
        if self.exactly:
            return part
        env, last = at.spot.env, i == len(items) - 1
        body, reach = items[i], self.reach(items[i], env)
        rest = None if last else self.blurry.suffix(items, i + 1)

        def sizes(state: Out, left: int) -> dict[int, float]:
            x = self.blur(state.value)
            if rest is None:
                return {left: 1.0}
            found = {}
            for m in range(reach.floor, left - self.reach(rest, env).floor + 1):
                found[m] = math.fsum(
                    mass * self.blurry.mass(rest, env, value, left - m)
                    for value, mass in self.blurry.masses(body, env, x, m).items()
                )
            return found

        def after(out: Out, left: int) -> float:
            if rest is None:
                return 1.0
            return max(self.blurry.mass(rest, env, self.blur(out.value), left), DOUBT**4)

        return Guided(part.run, part.floor, sizes if reach.recursive else None, after)

    def _branch(self, items: Sequence[Expr], i: int, at: State, x: object, copies: bool) -> Part:
        part = super()._branch(items, i, at, x, copies)
        env = at.spot.env
        if self.exactly:
            return part
        recursive = self.reach(items[i], env).recursive
        dull = self.blur(x)

        def sizes(state: Out, left: int) -> dict[int, float]:
            # Later branches get what is left; that they start from the same value is a guess.
            later = items[i + 1 :]
            found = {}
            for m in range(part.floor, left - sum(self.reach(b, env).floor for b in later) + 1):
                mass = self.blurry.mass(items[i], env, dull, m)
                found[m] = mass * (self._spread(later, env, dull, left - m) if mass else 0.0)
            return found

        return Guided(part.run, part.floor, sizes if recursive else None, None)

    def _spread(self, items: Sequence[Expr], env: Env, x: object, left: int) -> float:
        """The mass of branches that take `left` nodes together."""
        if not items:
            return float(left == 0)
        if len(items) == 1:
            return self.blurry.mass(items[0], env, x, left)
        return math.fsum(
            self.blurry.mass(items[0], env, x, m) * self._spread(items[1:], env, x, left - m)
            for m in range(left + 1)
        )

    def chain(self, parts: Sequence[Part], start: Out, size: int) -> Table:
        if self.exactly:
            return super().chain(parts, start, size)
        base = self.base
        try:
            return self._chain(parts, start, size)
        finally:
            self.base = base

    def _chain(self, parts: Sequence[Part], start: Out, size: int) -> Table:
        floors = [p.floor for p in parts]
        base = self.base
        state, before = start, EMPTY
        table: Table = {start: EMPTY}
        for i, part in enumerate(parts):
            left = size - state.nodes
            rest = sum(floors[i + 1 :])
            trailing = [p for p in parts[i + 1 :] if not isinstance(p, Guided)]
            low, high = 0, left - rest
            if i == len(parts) - 1:
                low = high
            elif isinstance(part, Guided) and part.sizes is not None:
                low = high = self._size(part, state, left - sum(p.floor for p in trailing))
            if high < 0:
                raise Dead
            self.base = tuple(  # type: ignore[assignment]  # three numbers
                b + self.scale * c
                for b, c in zip(base, (state.params, state.flops, state.memory), strict=True)
            )
            found = list(part.run(state, low, high))
            self.base = base
            draft: Draft = {}
            for out, vertex in found:
                if self.affords(out):
                    below = tuple(v for v in (before, vertex) if v is not EMPTY)
                    draft.setdefault(out, []).append((1.0, -1, 0, 0, 1, below))
            table = finish(draft)
            if not table:
                raise Dead
            if i < len(parts) - 1:
                state, before = self._carried(parts, i, table, size)
                table = {state: before}
        return table

    def _size(self, part: "Guided", state: Out, left: int) -> int:
        assert part.sizes is not None
        sizes = part.sizes(state, left)
        if not sizes:
            raise Dead
        values = list(sizes)
        doubt = DOUBT * max(sizes.values()) / len(values)
        weights = [w if w > 0 else doubt for w in sizes.values()]
        if not doubt:
            weights = [m**-1.5 if m else 1.0 for m in values]
        return values[self.take(weights)]

    def _carried(
        self, parts: Sequence[Part], i: int, table: Table, size: int
    ) -> tuple[Out, Vertex]:
        """The outcome that is carried on."""
        part, following = parts[i], parts[i + 1]
        outs, weights = list(table), []
        plain = not (isinstance(following, Guided) and following.sizes is not None)
        last = i + 1 == len(parts) - 1
        for out in outs:
            left = size - out.nodes
            weight = math.exp(log_mass(table[out])) if left >= 0 else 0.0
            if weight and isinstance(part, Guided) and part.after is not None and len(outs) > 1:
                weight *= part.after(out, left)
            if weight and plain:
                high = left - sum(p.floor for p in parts[i + 2 :])
                low = high if last else 0
                if not any(True for _ in following.run(out, low, high)):
                    weight = 0.0
            weights.append(weight)
        out = outs[self.take(weights)]
        return out, table[out]


class Guided(Part):
    """A part that knows how nodes are spread: over its sizes, and what may come after it."""

    __slots__ = ("after", "sizes")

    def __init__(
        self,
        run: Callable[[Out, int, int], Found],
        floor: int,
        sizes: Callable[[Out, int], dict[int, float]] | None,
        after: Callable[[Out, int], float] | None,
    ) -> None:
        super().__init__(run, floor)
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "after", after)

    sizes: Callable[[Out, int], dict[int, float]] | None
    after: Callable[[Out, int], float] | None
