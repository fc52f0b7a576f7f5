"""The type rule handed to exact derivation: `Typing` with values that are types, not terms.

Two values of one type are one value here, so that what comes after a part is summed once for a
type. Rules and refusals are those of `Typing`, which does the work; only its result is interned.
What an op exports is kept only where the space reads an export.
"""

from collections.abc import Mapping, Sequence

from einspace.candidates import Candidate, Frame
from einspace.interface import Interface
from einspace.types import Ref, Term, Typing
from grammar.ast import Node, Space, Value, children
from grammar.domain import Scalar
from grammar.exact import Drawn, Exact
from grammar.normal import text_of
from grammar.walk import Applied, Site
from ops.spec import Op


class Facts(Typing):
    """`Algebra` whose values are interned refs: equal types are the identical value."""

    def __init__(self, table: Mapping[str, Op], interface: Interface, *, exports: bool) -> None:
        super().__init__(table, interface)
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
        return Applied(self._intern(made.value), made.params, made.flops, made.constructor)

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
        if self.exports and term.exports:
            key: object = (term.op, tuple(term.args.items()), term.types, value.port)
            if key not in self._known:
                short = Term(term.op, term.args, types=term.types, exports=term.exports)
                for port in range(len(term.types)):
                    whole = (term.op, tuple(term.args.items()), term.types, port)
                    self._known[whole] = Ref(short, port)
        else:
            key = value.type
            if key not in self._known:
                self._known[key] = Ref(Term("value", types=(value.type,)))
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


def exact_of(frame: Frame) -> Exact:
    """The exact derivations of a frame: its space, interface and limits. Raises: SpaceError."""
    typing = frame.typing
    exports = reads_exports(frame.space, typing.table)
    facts = Facts(typing.table, typing.interface, exports=exports)
    layered = frozenset(name for name, op in typing.table.items() if "layer" in op.needs)
    return Exact(frame.space, facts, frame.limits, layered=layered)


def candidate(frame: Frame, exact: Exact, drawn: Drawn) -> Candidate:
    """A draw as a candidate; `log_prob` is of the conditioned distribution."""
    found = exact.replay(drawn, frame.typing)
    text, hash_ = text_of(found.closed, frame.typing.signatures)
    return Candidate(
        text, hash_, found.trace, drawn.log_prob, found.params, found.flops, found.nodes
    )
