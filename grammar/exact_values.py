"""Sums over values: parameters, counts, ranges and the choices among them.

The exact twin of `grammar/values.py`: where that one asks a chooser, this one goes through all
options and gives each its vertex.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from grammar.ast import Call, Choice, Decl, Expr, ListOf, Name, Node, Number, Range, Space, String
from grammar.domain import Domain, Scalar, Signature
from grammar.errors import SpaceError
from grammar.exact_refs import Static
from grammar.exact_state import (
    EMPTY,
    Closure,
    Edge,
    Env,
    Names,
    Spot,
    Store,
    Vertex,
    kept,
    look,
    put,
    root,
)
from grammar.values import WORDS, Given
from grammar.walk import Algebra, Infeasible, Limits, refuse
from grammar.weights import weights

Roots: TypeAlias = frozenset[str]
Filled: TypeAlias = dict[tuple[object, Store], Vertex]


@dataclass(frozen=True, slots=True)
class Reach:
    """What a text can touch where these arguments are in force."""

    env: Env
    live: Roots
    binds: Roots
    reads: tuple[str, ...]
    anchored: bool
    recursive: bool
    floor: int


class State(NamedTuple):
    """Where the walk stands: spot, names in scope, shared choices, and what is wanted later."""

    spot: Spot
    scope: Mapping[str, object]
    store: Store
    wanted: Roots


class Fill:
    """Interned environments, reaches, and the values that texts stand for."""

    def __init__(self, space: Space, algebra: Algebra, limits: Limits) -> None:
        self.space, self.algebra, self.limits = space, algebra, limits
        self.signatures = algebra.signatures
        self.decls: Mapping[str, Decl] = {d.name: d for d in space.decls}
        self.lets = {d.name: d.body for d in space.decls if d.kind == "let"}
        self.static = Static(self.decls, self.signatures)
        self.refusal: SpaceError | None = None
        self.cap: int | None = None
        self.steps = 0
        self._envs: dict[object, Env] = {}
        self._reaches: dict[tuple[int, Env], Reach] = {}
        self._shares: dict[int, tuple[float, ...]] = {}
        self._filled: dict[object, Filled] = {}
        self._held: list[object] = []
        self.blank = self.env(())

    def note(self, error: Infeasible) -> None:
        """Keep the first refusal: it is what the user is told if nothing fits."""
        self.refusal = self.refusal or error.error

    # -- what a text touches -----------------------------------------------------------------

    def env(self, closures: tuple[tuple[str, Closure], ...]) -> Env:
        """The one `Env` of these closures."""
        key = tuple((n, id(c.body), c.spot, c.scope) for n, c in closures)
        found = self._envs.get(key)
        if found is None:
            found = self._envs[key] = Env(closures)
        return found

    def reach(self, expr: Node, env: Env) -> Reach:
        """The `Reach` of a text under `env`."""
        found = self._reaches.get((id(expr), env))
        if found is None:
            found = self._reaches[id(expr), env] = self._make_reach(expr, env)
        return found

    def _make_reach(self, expr: Node, env: Env) -> Reach:
        refs = self.static.refs(expr)
        inner = {n: c for n, c in env.closures.items() if n in refs.names}
        live = {f"{self.decls[n].kind}:{n}" for n in refs.decls if self.decls[n].kind != "rule"}
        anchored, recursive = refs.anchored, bool(refs.decls & self.static.recursive)
        binds = set(refs.binds)
        for closure in inner.values():
            below = self.reach(closure.body, closure.spot.env)
            live |= {root(closure.spot.address)} | {w for w in below.live if w[0] != "@"}
            anchored = anchored or below.anchored
            recursive = recursive or below.recursive
            binds |= {closure.carried(name[1:]) for name in below.binds}
            if below.anchored and closure.spot.near:
                live.add(root(closure.spot.near))
        floors = {n: self.reach(c.body, c.spot.env).floor for n, c in inner.items()}
        return Reach(
            self.env(tuple(inner.items())),
            frozenset(live | {f"@{r}" for r in refs.reads}),
            frozenset(f"@{b}" for b in binds),
            tuple(sorted(refs.reads)),
            anchored,
            recursive,
            self.static.floor(expr, floors),
        )

    @staticmethod
    def own(spot: Spot) -> Roots:
        """The roots of the spot itself: entries that a part of it must leave to the next part."""
        return frozenset(root(path) for path in spot[:4] if path)

    def needs(self, exprs: Iterable[Node], env: Env) -> Roots:
        """What these texts may ask for: roots of shared choices, and `@names`."""
        found: set[str] = set()
        for expr in exprs:
            found |= self.reach(expr, env).live
        return frozenset(found)

    def settle(self, expr: Node, at: State) -> tuple[State, Store]:
        """The state cut down to what `expr` can touch, and the part of the store left aside."""
        spot, scope, store, wanted = at
        reach = self.reach(expr, spot.env)
        own = {root(p) for p in (spot.address, spot.module) if p}
        if reach.anchored:
            own |= {root(p) for p in (spot.near, spot.mnear) if p}
        roots = reach.live | own
        inside = kept(store, roots)
        held = {root(key) for key, _ in inside}
        wanted = wanted & (roots | reach.binds)

        def path(text: str, use: bool = True) -> str:
            return text if text and use and (root(text) in wanted or root(text) in held) else ""

        cut = Spot(
            path(spot.address),
            path(spot.near, reach.anchored),
            path(spot.module),
            path(spot.mnear, reach.anchored),
            reach.env,
            spot.output,
        )
        names = {n: scope[n] for n in reach.reads if n in scope}
        frame = tuple(p for p in store if root(p[0]) not in roots) if store else ()
        return State(cut, names, inside, wanted), frame

    # -- choices -----------------------------------------------------------------------------

    def shares(self, choice: Choice) -> tuple[float, ...]:
        """The weights of the alternatives."""
        found = self._shares.get(id(choice))
        if found is None:
            found = self._shares[id(choice)] = weights(choice, self.lets)
        return found

    @staticmethod
    def options(
        shares: Sequence[float], spot: Spot, store: Store, wanted: Roots
    ) -> Iterator[tuple[int, float, int, Store]]:
        """The options at a spot: index, share, index as asked for (or -1), store after."""
        made = look(store, spot.address) if spot.address else None
        if isinstance(made, int):
            yield made, 1.0, -1, store
            return
        record = bool(spot.address) and root(spot.address) in wanted
        for i, share in enumerate(shares):
            after = put(store, spot.address, i) if record else store
            yield i, share, (i if len(shares) > 1 else -1), after

    # -- values ------------------------------------------------------------------------------

    def values(self, expr: Expr, domain: Domain, at: State, depth: int = 0) -> Filled:
        """What a text may stand for in a domain: (value, store after) to its vertex."""
        cut, frame = self.settle(expr, at)
        key = (id(expr), id(domain), cut.spot, cut.store, cut.wanted)
        found = self._filled.get(key)
        if found is None:
            if depth > 200:
                raise SpaceError("a value that never ends", span=expr.span)
            self._held += [expr, domain]
            draft: dict[tuple[object, Store], list[Edge]] = {}
            for value, store, edge in self._values(expr, domain, cut, depth):
                draft.setdefault((value, kept(store, cut.wanted)), []).append(edge)
            found = self._filled[key] = {out: Vertex(edges) for out, edges in draft.items()}
        if not frame:
            return found
        whole = {}
        for (value, store), vertex in found.items():
            whole[value, tuple(sorted((*frame, *store), key=lambda p: p[0]))] = vertex
        return whole

    def _values(
        self, expr: Expr, domain: Domain, at: State, depth: int
    ) -> Iterator[tuple[object, Store, Edge]]:
        spot, _, store, wanted = at
        match expr:
            case Choice(alts):
                for i, share, pick, after in self.options(self.shares(expr), spot, store, wanted):
                    inner = at._replace(spot=spot.at(f"|{i}"), store=after)
                    for (value, last), vertex in self.values(
                        alts[i].body, domain, inner, depth + 1
                    ).items():
                        yield value, last, (share, pick, 0, 0, 1, (vertex,))
            case Range():
                points = self._points(expr, domain)
                equal = (1.0 / len(points),) * len(points) if points else ()
                for i, share, pick, after in self.options(equal, spot, store, wanted):
                    yield points[i], after, (share, pick, 0, 0, 1, ())
            case Name(name) if name in spot.env.closures or (
                name in self.decls and not _is_word(name, domain)
            ):
                body, inner_spot = self._named(name, spot)
                inner = at._replace(spot=inner_spot)
                for (value, last), vertex in self.values(body, domain, inner, depth + 1).items():
                    yield value, last, (1.0, -1, 0, 0, 1, (vertex,))
            case _:
                try:
                    value = domain.accept(_literal(expr))
                except (ValueError, Infeasible) as error:
                    wrong = error if isinstance(error, Infeasible) else None
                    self.note(wrong or refuse(f"this value is not allowed: {error}", expr))
                    return
                yield value, store, (1.0, -1, 0, 0, 1, ())

    def _named(self, name: str, spot: Spot) -> tuple[Expr, Spot]:
        closure = spot.env.closures.get(name)
        if closure is not None:
            return closure.body, closure.spot
        decl = self.decls[name]
        if decl.kind == "rule":
            return decl.body, spot.at(name)._replace(env=self.blank)
        return decl.body, Spot(f"{decl.kind}:{name}", "", "", "", self.blank)

    def _points(self, expr: Range, domain: Domain) -> tuple[Scalar, ...]:
        try:
            points = domain.grid(expr.low, expr.high, expr.step)
        except ValueError as error:
            self.note(refuse(f"this range is not allowed: {error}", expr))
            return ()
        if not points:
            self.note(refuse("this range is empty", expr))
        return points

    # -- parameters --------------------------------------------------------------------------

    def assign(self, texts: Mapping[str, Given], signature: Signature, at: State) -> Filled:
        """All fillings of the written parameters: (values in order, store) to a vertex."""
        given = [(name, text.text) for name, text in texts.items()]
        bodies = [body for _, body in given if body is not None]
        table: Filled = {((), at.store): EMPTY}
        for name, body in given:
            if body is None:
                table = {((*t, True), s): v for (t, s), v in table.items()}  # type: ignore[misc]  # a tuple
                continue
            bodies = bodies[1:]
            wanted = at.wanted | self.own(at.spot) | self.needs(bodies, at.spot.env)
            spot = at.spot.at(f"{signature.name}.{name}")
            draft: dict[tuple[object, Store], list[Edge]] = {}
            for (done, store), before in table.items():
                found = self.values(
                    body, signature.params[name], State(spot, at.scope, store, wanted)
                )
                for (value, after), vertex in found.items():
                    below = (vertex,) if before is EMPTY else (before, vertex)
                    edge: Edge = (1.0, -1, 0, 0, 1, below)
                    draft.setdefault(((*done, value), after), []).append(edge)  # type: ignore[misc]  # a tuple
            table = {
                out: e[0][5][0] if len(e) == 1 and len(e[0][5]) == 1 else Vertex(e)
                for out, e in draft.items()
            }
        return table

    @staticmethod
    def names(scope: Mapping[str, object]) -> Names:
        """A scope as a hashable."""
        return tuple(scope.items())


def _is_word(name: str, domain: Domain) -> bool:
    try:
        domain.accept(name)
    except ValueError:
        return False
    return True


def _literal(expr: Expr) -> object:
    match expr:
        case Number(value) | String(value):
            return value
        case Name(name):
            return WORDS.get(name, name)
        case ListOf(items):
            return tuple(_literal(item) for item in items)
    raise refuse("a value is needed here", expr)


def part_texts(call: Call, signatures: Mapping[str, Signature]) -> list[Expr]:
    """The expressions among the arguments: what has no name and is no flag."""
    signature = signatures.get(call.name)
    flags = signature.params if signature else {}
    return [
        a.value
        for a in call.args
        if a.name is None and not (isinstance(a.value, Name) and a.value.id in flags)
    ]
