"""Is this architecture in that space, and how likely is it there?

The exact walk runs with values that are places in the architecture's typed graph: an op applies
where the graph has a node of that op, with those arguments and inputs. What comes through is every
derivation of that graph, identities (`id`) free within the budget of nodes. A derivation that uses
as many nodes and as many modules as the graph has is the graph, up to its symmetries, whose number
is that of the ways in which the architecture derives itself. Sums are equal in any order;
nested sums are told apart from flat ones, though the normal form writes them alike.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from einspace.compile import Closed
from einspace.draws import Sums, drawn_limits, sums_of
from einspace.frame import Frame
from einspace.types import Outputs, Ref, Term, Typing
from grammar.ast import Node
from grammar.derive import derive
from grammar.domain import Scalar
from grammar.errors import SpaceError
from grammar.exact import Exact
from grammar.exact_ops import TooLarge
from grammar.parse import parse
from grammar.walk import Applied, Limits, Site, refuse

FREE = ("id",)
CAP = 5_000_000  # steps of the sums over one architecture


@dataclass(frozen=True, slots=True)
class Member:
    """`log_prob` (natural) of the architecture in the conditioned distribution, summed over its
    derivations; `trace` is that of the most probable one. The sum is exact; where the mass of the
    whole space is an estimate, so is `log_prob`."""

    log_prob: float
    derivations: int
    trace: Mapping[str, int]
    kind: Literal["exact", "estimate"] = "exact"


class _Recording(Typing):
    """`Typing` that remembers where each term stands in the text."""

    def __init__(self, typing: Typing) -> None:
        super().__init__(typing.table, typing.interface)
        self._inputs = typing._inputs
        self.places: dict[Term, Node] = {}

    def apply(
        self,
        op: str,
        params: Mapping[str, Scalar],
        values: Sequence[object],
        inputs: Mapping[str, object],
        site: Site,
    ) -> Applied:
        made = super().apply(op, params, values, inputs, site)
        first = made.value[0] if isinstance(made.value, tuple) else made.value
        assert isinstance(first, Ref)
        self.places[first.term] = site.node
        return made


def bare(ref: Ref) -> Ref:
    """What identities pass on."""
    while ref.term.op in FREE:
        ref = ref.term.inputs[0]
    return ref


class Places(Typing):
    """`Algebra` whose values are refs of one finished graph."""

    def __init__(self, typing: Typing, outputs: Outputs) -> None:
        super().__init__(typing.table, typing.interface)
        self._inputs = typing._inputs
        self.outputs = tuple(map(bare, outputs.refs)), outputs.names
        self.terms: list[Term] = []
        self.order: dict[Term, int] = {}
        seen: set[Term] = set()
        for ref in self.outputs[0]:
            self._visit(ref.term, seen)
        self.reached: set[Term] = set()
        self.found: dict[object, list[Term]] = {}
        for term in self.terms:
            self.found.setdefault(self._key_of(term), []).append(term)
        ops = [t for t in self.terms if t.op in self.table]
        self.size, self.modules = len(ops), len({t.module + t.op for t in ops})

    def _visit(self, term: Term, seen: set[Term]) -> None:
        if term in seen or term.op == "input":
            return
        seen.add(term)
        for ref in term.inputs:
            self._visit(bare(ref).term, seen)
        self.order[term] = len(self.terms)
        self.terms.append(term)

    def _key_of(self, term: Term) -> object:
        extras = len(term.roles)
        cut = len(term.inputs) - extras
        named = zip(term.roles, term.inputs[cut:], strict=True)
        given = tuple((n, bare(r)) for n, r in named if not self._beside_of(term.op, n))
        return self._key(term.op, term.args, tuple(map(bare, term.inputs[:cut])), given)

    def _beside_of(self, op: str, name: str) -> bool:
        inputs = self.table[op].inputs if op in self.table else ()
        return any(i.name == name and i.beside is not None for i in inputs)

    def _key(
        self,
        op: str,
        params: Mapping[str, Scalar],
        values: tuple[object, ...],
        given: tuple[tuple[str, object], ...],
    ) -> object:
        ways: object = values
        if op == "add":
            ways = tuple(sorted(map(self.rank, values)))
        return op, tuple(sorted((n, repr(v)) for n, v in params.items())), ways, given

    def rank(self, value: object) -> tuple[int, int, str]:
        """A fixed order of values, for sums."""
        assert isinstance(value, Ref)
        name = str(value.term.args.get("name", "")) if value.term.op == "input" else ""
        return self.order.get(value.term, -1), value.port, name

    def alternatives(
        self,
        op: str,
        params: Mapping[str, Scalar],
        values: Sequence[object],
        inputs: Mapping[str, object],
        site: Site,
    ) -> Sequence[Applied]:
        """All nodes of the graph that this op may be. Raises: Infeasible where there is none."""
        xs = tuple(self._one(v, op, site) for v in values)
        if op in FREE:
            return (Applied(xs[0], 0, 0, op),)
        given: list[tuple[str, object]] = []
        for declared in self.table[op].inputs:
            if declared.name in inputs and declared.beside is None:
                value = inputs[declared.name]
                group = value if isinstance(value, tuple) else (value,)
                given += [(declared.name, self._one(v, op, site)) for v in group]
        terms = self.found.get(self._key(op, params, xs, tuple(given)), ())
        if not terms:
            raise refuse(f"the architecture has no such '{op}' here", site.node)
        self.reached.update(terms)
        return [Applied(self._value(t), 1, 1, t.module + t.op) for t in terms]

    @staticmethod
    def _value(term: Term) -> object:
        refs = tuple(Ref(term, i) for i in range(len(term.types)))
        return refs if len(refs) > 1 and not term.exports else refs[0]

    def fold(self, value: object, site: Site) -> object:
        return self._view("fold", value, site)

    def unfold(self, value: object, outer: object, site: Site) -> object:
        return self._view("unfold", value, site)

    def _view(self, op: str, value: object, site: Site) -> object:
        for term in self.terms:
            if term.op == op and bare(term.inputs[0]) == value:
                self.reached.add(term)
                return Ref(term)
        raise refuse("the architecture has no list axis here", site.node)

    def finish(self, value: object, site: Site) -> object:
        ended = super().finish(value, site)
        assert isinstance(ended, Outputs)
        if dict(zip(ended.names, ended.refs, strict=False)) != dict(
            zip(self.outputs[1], self.outputs[0], strict=False)
        ) or len(ended.refs) != len(self.outputs[0]):
            raise refuse("the architecture goes on here", site.node)
        if not ended.names and ended.refs != self.outputs[0]:
            raise refuse("the architecture goes on here", site.node)
        return ended


def probability(frame: Frame, target: str, whole: Sums | None = None) -> Member:
    """The probability of an architecture in a frame's space, conditioned on validity and budget.

    `whole` is `sums_of(frame)`, unless others are given. Raises: SpaceError for a text that does
    not fit the task, and for an architecture that the space cannot derive, with its first part
    that no derivation reaches.
    """
    recording = _Recording(frame.typing)
    tree = parse(target, "<architecture>")
    closed, _ = derive(tree, Closed(), recording, Limits())
    assert isinstance(closed.value, Outputs)
    places = Places(frame.typing, closed.value)
    nodes = drawn_limits(frame).nodes
    if closed.nodes > nodes:
        raise SpaceError(
            f"this architecture has {closed.nodes} nodes, and the budget is {nodes}",
            hint="give a larger one with --max-nodes",
        )
    limits = Limits(nodes, places.modules, places.size)
    own = Exact(tree, places, Limits(20_000, places.modules, places.size), spent=True)
    symmetries = sum(own.counts().values())
    places.reached.clear()
    try:
        found = Exact(frame.space, places, limits, spent=True, cap=CAP)
    except TooLarge as error:
        raise SpaceError(
            f"{error.message}: too many ways to derive this architecture",
            hint="give a budget of nodes nearer to its own",
        ) from None
    except SpaceError as error:
        raise _missing(places, recording, error) from None
    sums = whole or sums_of(frame)
    trace = found.replay(found.best(), frame.typing, Limits()).trace
    count, rest = divmod(sum(found.counts().values()), symmetries)
    assert rest == 0
    log_prob = found.log_mass() - math.log(symmetries) - sums.log_mass()
    return Member(log_prob, count, trace, sums.kind)


def _missing(places: Places, recording: _Recording, error: SpaceError) -> SpaceError:
    for term in places.terms:
        if term not in places.reached and term in recording.places:
            span = recording.places[term].span
            return SpaceError(
                f"the space derives nothing with this '{term.op}'",
                span=span,
                hint="up to here it does; an op with other arguments counts as another op",
            )
    return SpaceError(
        "the space derives every part of this architecture, but not the whole",
        hint=error.message,
    )
