"""Is this architecture in that space, and how likely is it there?

The exact walk runs with values that are places in the architecture's typed graph: an op applies
where the graph has a node of that op, with those arguments and inputs. What comes through is every
derivation of that graph, identities (`id`) free. A derivation that uses as many nodes and as many
modules as the graph has is the graph, up to its symmetries, whose number is that of the ways in
which the architecture derives itself. Sums are equal in any order; nested sums are told apart from
flat ones, though the normal form writes them alike. How they are summed says
`einspace/derivations.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from einspace.compile import Closed
from einspace.derivations import Deep, Derivations, Flat
from einspace.draws import Sums, drawn_limits, sums_of
from einspace.frame import Frame, Held
from einspace.places import Places
from einspace.plain import plain
from einspace.types import Outputs, Ref, Term, Typing
from grammar.ast import Node, Space
from grammar.derive import derive
from grammar.domain import Scalar
from grammar.errors import SpaceError
from grammar.exact import Exact, replay
from grammar.exact_ops import TooLarge
from grammar.normal import text_of
from grammar.parse import parse
from grammar.tabled import Unending
from grammar.walk import Applied, Derivation, Limits, Site


@dataclass(frozen=True, slots=True)
class Member:
    """`log_prob` (natural) of the architecture in the distribution conditioned on validity and
    budget, summed over its derivations; `trace` is that of the most probable one with the fewest
    identities. The sum is exact; where the mass of the whole space is an estimate, so is
    `log_prob`. `nodes` is the budget of nodes that it is conditioned on."""

    log_prob: float
    derivations: int
    trace: Mapping[str, int]
    kind: Literal["exact", "estimate"] = "exact"
    nodes: int = 0


class _Recording(Typing):
    """`Typing` that remembers where each term stands in the text."""

    def __init__(self, typing: Typing) -> None:
        super().__init__(typing.table, typing.interface, depth=typing.depth)
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


class Text:
    """An architecture as a text, held against a frame's space.

    Raises: SpaceError for a text that does not fit the task.
    """

    def __init__(self, frame: Frame, target: str) -> None:
        self.frame, self.recording = frame, _Recording(frame.typing)
        self.tree = parse(target, "<architecture>")
        self.closed: Derivation = derive(self.tree, Closed(), self.recording, Limits())[0]

    @cached_property
    def derivations(self) -> Derivations:
        """Raises: SpaceError where the space cannot derive the architecture, with its first part
        that no derivation reaches."""
        frame, recursive = self.frame, self.frame.checked.radius > 0
        places = self._places(alike=recursive and plain(frame.space))
        self._unshared(places)
        try:
            if not recursive:
                return self._flat(places, frame.limits.nodes)
            return self._deep(places)
        except TooLarge as error:
            raise SpaceError(
                f"{error.message}: too many ways to derive this architecture",
                hint="give a budget of nodes nearer to its own",
            ) from None
        except SpaceError as error:
            raise self._missing(places.missing(), error) from None

    def trace(self) -> Mapping[str, int]:
        """The trace of the most probable derivation; no budget applies. Raises: SpaceError."""
        return self._replayed(self.derivations).trace

    def _replayed(self, ways: Derivations) -> Derivation:
        return replay(self.frame.space, ways.best(), self.frame.typing, Limits())

    def _places(self, *, alike: bool) -> Places:
        value = self.closed.value
        assert isinstance(value, Outputs)
        return Places(self.frame.typing, value, alike=alike)

    def _flat(self, places: Places, nodes: int) -> Derivations:
        symmetries = _symmetries(self.tree, places)
        places.made.clear()
        return Flat(self.frame, places, symmetries, nodes)

    def _deep(self, places: Places) -> Derivations:
        try:
            if places.classes is None:
                symmetries = _symmetries(self.tree, places)
                places.made.clear()
                return Deep(self.frame, places, symmetries)
            found = Deep(self.frame, places, 1)
        except Unending:
            nodes = max(drawn_limits(self.frame).nodes, self.closed.nodes)
            return self._flat(self._places(alike=False), nodes)
        self._compared(self._replayed(found).closed)
        return found

    def _compared(self, closed: Space) -> None:
        """What was derived over classes is compared node by node, unless it is the same text.

        Raises: SpaceError where the ports of a node have changed places.
        """
        signatures = self.frame.typing.signatures
        if text_of(closed, signatures)[1] != text_of(self.closed.closed, signatures)[1]:
            _symmetries(closed, self._places(alike=False))

    def _unshared(self, places: Places) -> None:
        """Where places are classes, every op must have a module of its own."""
        if places.classes is None or places.modules == places.size:
            return
        seen: set[str] = set()
        for term in places.terms:
            if term.module + term.op in seen:
                raise SpaceError(
                    f"this '{term.op}' is the module of another, and the space shares none",
                    span=self.recording.places[term].span,
                    hint="spaces share modules with let and tied",
                )
            seen.add(term.module + term.op)

    def _missing(self, term: Term | None, error: SpaceError) -> SpaceError:
        if term is not None and term in self.recording.places:
            return SpaceError(
                f"the space derives nothing with this '{term.op}'",
                span=self.recording.places[term].span,
                hint="up to here it does; an op with other arguments counts as another op",
            )
        return SpaceError(
            "the space derives every part of this architecture, but not the whole",
            hint=error.message,
        )


def trace_of(frame: Frame, target: str) -> Mapping[str, int]:
    """The trace of an architecture's most probable derivation in a space, whatever the budget.

    Raises: SpaceError for a text that does not fit the task, and for an architecture that the space
    cannot derive, with its first part that no derivation reaches.
    """
    return Text(frame, target).trace()


def probability(frame: Frame, target: str, whole: Sums | None = None) -> Member:
    """The probability of an architecture in a frame's space, conditioned on validity and budget.

    `whole` is `sums_of(frame)`, unless others are given. Where the frame leaves the nodes of a
    recursive space free, and the architecture has more than are drawn, its own number is the
    budget. Raises: SpaceError as `trace_of`, and for an architecture over the budget.
    """
    text = Text(frame, target)
    _within(frame, text.closed)
    nodes, drawn = drawn_limits(frame).nodes, frame
    if text.closed.nodes > nodes:
        if nodes == frame.limits.nodes:
            raise SpaceError(
                f"this architecture has {text.closed.nodes} nodes, and the budget is {nodes}",
                hint="give a larger one with --max-nodes",
            )
        nodes = text.closed.nodes
        drawn = replace(frame, limits=replace(frame.limits, nodes=nodes), held=Held())
    ways = text.derivations
    count, rest = divmod(ways.count(nodes), ways.symmetries)
    assert rest == 0
    log_prob = ways.log_mass(nodes) - math.log(ways.symmetries)
    sums = whole or sums_of(drawn)
    return Member(log_prob - sums.log_mass(), count, text.trace(), sums.kind, nodes)


def _within(frame: Frame, found: Derivation) -> None:
    limits = frame.limits
    costs = ("params", found.params), ("flops", found.flops), ("memory", found.memory)
    for name, cost in costs:
        limit = getattr(limits, name)
        if limit is not None and cost > limit:
            raise SpaceError(
                f"this architecture has {name} {cost:,}, and the budget is {limit:,}",
                hint=f"give a larger one with --max-{name}",
            )


def _symmetries(tree: Space, places: Places) -> int:
    own = Exact(tree, places, Limits(20_000, places.modules, places.size), spent=True)
    return sum(own.counts().values())
