"""The type rule handed to exact derivation: `Typing` with values that are types, not terms.

Two values of one type are one value here, so that what comes after a part is summed once for a
type. Rules and refusals are those of `Typing`, which does the work; only its result is interned.
What an op exports is kept only where the space reads an export.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from einspace.frame import Candidate, Frame
from einspace.interface import Interface
from einspace.types import Ref, Term, Typing
from grammar.ast import Node, Space, Value, children
from grammar.domain import Scalar
from grammar.exact import Drawn, Exact
from grammar.normal import named
from grammar.walk import Algebra, Applied, Derivation, Limits, Site
from ops.spec import Op


class Facts(Typing):
    """`Algebra` whose values are interned refs: equal types are the identical value."""

    def __init__(
        self,
        table: Mapping[str, Op],
        interface: Interface,
        *,
        exports: bool,
        depth: int | None = None,
    ) -> None:
        super().__init__(table, interface, depth=depth)
        self.exports = exports
        self._known: dict[object, Ref] = {}

    def apply(
        self,
        op: str,
        params: Mapping[str, Scalar],
        values: Sequence[object],
        inputs: Mapping[str, object],
        site: Site,
    ) -> Applied:
        made = super().apply(op, params, values, inputs, site)
        return replace(made, value=self._intern(made.value))

    def export(self, value: object, name: str, site: Site) -> object:
        return self._intern(super().export(value, name, site))

    def fold(self, value: object, site: Site) -> object:
        return self._intern(super().fold(value, site))

    def unfold(self, value: object, outer: object, site: Site) -> object:
        return self._intern(super().unfold(value, outer, site))

    def _intern(self, value: object) -> object:
        if isinstance(value, tuple):
            return tuple(self._intern(v) for v in value)
        assert isinstance(value, Ref)
        term = value.term
        depth = 0 if self.depth is None else term.depth
        if self.exports and term.exports:
            head = (term.op, tuple(term.args.items()), term.types, depth)
            key: object = (*head, value.port)
            if key not in self._known:
                short = Term(
                    term.op, term.args, types=term.types, exports=term.exports, depth=depth
                )
                for port in range(len(term.types)):
                    self._known[*head, port] = Ref(short, port)
        else:
            key = (value.type, depth)
            if key not in self._known:
                self._known[key] = Ref(Term("value", types=(value.type,), depth=depth))
        return self._known[key]


def reads_exports(space: Space, table: Mapping[str, Op]) -> bool:
    """Whether anything in the space reads what an op exports."""
    stack: list[Node] = [space]
    while stack:
        node = stack.pop()
        if isinstance(node, Value) and node.field is not None:
            return True
        stack.extend(children(node))
    return False


def facts_of(frame: Frame) -> Facts:
    """The type rule of a frame."""
    typing = frame.typing
    exports = reads_exports(frame.space, typing.table)
    return Facts(typing.table, typing.interface, exports=exports, depth=typing.depth)


def layered_of(frame: Frame) -> frozenset[str]:
    """The ops that get other constructor arguments at each use."""
    return frozenset(name for name, op in frame.typing.table.items() if "layer" in op.needs)


def exact_of(frame: Frame, limits: Limits | None = None, cap: int | None = None) -> Exact:
    """The exact derivations of a frame: its space, interface and limits (or others).

    Raises: SpaceError; TooLarge after `cap` steps.
    """
    return Exact(
        frame.space,
        facts_of(frame),
        limits or frame.limits,
        layered=layered_of(frame),
        cap=cap,
    )


class Replays(Protocol):
    """Sums that give a draw's derivation."""

    def replay(self, drawn: Drawn, algebra: Algebra) -> Derivation: ...


def candidate(frame: Frame, sums: Replays, drawn: Drawn) -> Candidate:
    """A draw as a candidate; `log_prob` is of the conditioned distribution."""
    found = sums.replay(drawn, frame.typing)
    form = named(found.closed, frame.typing.signatures)
    costs = found.params, found.flops, found.nodes
    return Candidate(
        form.text,
        form.hash,
        found.trace,
        drawn.log_prob,
        *costs,
        kind=drawn.kind,
        closed=form.closed,
    )
