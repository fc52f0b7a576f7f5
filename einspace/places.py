"""One finished graph as an algebra: an op applies where the graph has a node of that op.

Values are places, the outputs of the graph's nodes. What a walk derives over them is the graph,
with identities (`id`) free.
"""

from collections.abc import Mapping, Sequence

from einspace.quotient import Classes, Regions
from einspace.types import Outputs, Ref, Term, Typing
from grammar.domain import Scalar
from grammar.walk import Applied, Site, refuse

FREE = ("id",)


def bare(ref: Ref) -> Ref:
    """What identities pass on."""
    while ref.term.op in FREE:
        ref = ref.term.inputs[0]
    return ref


class Places(Typing):
    """`Algebra` whose values are refs of one finished graph."""

    def __init__(self, typing: Typing, outputs: Outputs, *, alike: bool = False) -> None:
        super().__init__(typing.table, typing.interface)
        self._inputs = typing._inputs
        ends = tuple(map(bare, outputs.refs))
        self.terms: list[Term] = []
        self.order: dict[Term, int] = {}
        for ref in ends:
            self._visit(ref.term)
        self.classes = Classes(self.terms, ends, bare) if alike else None
        self.outputs = tuple(map(self.place, ends)), outputs.names
        self.regions = Regions(self.classes, self.counts) if self.classes else None
        self.made: dict[Term, set[tuple[Term, ...]]] = {}
        self.found: dict[object, dict[tuple[Ref, ...], Term]] = {}
        for term in self.terms:
            places = tuple(map(self.place, _ports(term)))
            self.found.setdefault(self._key_of(term), {}).setdefault(places, term)
        ops = list(filter(self.counts, self.terms))
        self.size, self.modules = len(ops), len({t.module + t.op for t in ops})

    def _visit(self, last: Term) -> None:
        """Puts down what leads to a term, inputs first."""
        stack = [last]
        while stack:
            term = stack[-1]
            before = [bare(ref).term for ref in term.inputs]
            missing = [t for t in before if t not in self.order and t.op != "input"]
            if missing:
                stack.extend(reversed(missing))
                continue
            stack.pop()
            if term not in self.order and term.op != "input":
                self.order[term] = len(self.terms)
                self.terms.append(term)

    def counts(self, term: Term) -> bool:
        """Whether it is an op, not a view of a list axis."""
        return term.op in self.table

    def place(self, ref: Ref) -> Ref:
        """The value that stands for this output of a node."""
        return self.classes.place(ref) if self.classes else bare(ref)

    def fits(self, start: object, end: object, nodes: int) -> bool:
        """Whether a part between two places may have so many nodes, where places are classes."""
        if self.regions is None or not isinstance(start, Ref) or not isinstance(end, Ref):
            return True
        return self.regions.size(start, end) == nodes

    def _key_of(self, term: Term) -> object:
        extras = len(term.roles)
        cut = len(term.inputs) - extras
        named = zip(term.roles, term.inputs[cut:], strict=True)
        given = tuple((n, self.place(r)) for n, r in named if not self._beside_of(term.op, n))
        return self._key(term.op, term.args, tuple(map(self.place, term.inputs[:cut])), given)

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
        terms = self.found.get(self._key(op, params, xs, tuple(given)), {})
        if not terms:
            raise refuse(f"the architecture has no such '{op}' here", site.node)
        used = tuple(x.term for x in xs)
        for refs in terms:
            self.made.setdefault(refs[0].term, set()).add(used)
        return [
            Applied(refs if len(refs) > 1 and not term.exports else refs[0], 1, 1, term.module + op)
            for refs, term in terms.items()
        ]

    def fold(self, value: object, site: Site) -> object:
        return self._view("fold", value, site)

    def unfold(self, value: object, outer: object, site: Site) -> object:
        return self._view("unfold", value, site)

    def _view(self, op: str, value: object, site: Site) -> object:
        for term in self.terms:
            if term.op == op and self.place(term.inputs[0]) == value:
                self.made.setdefault(term, set()).add((term.inputs[0].term,))
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

    def backwards(self) -> list[object]:
        """All values, the last first."""
        refs = (self.place(ref) for term in reversed(self.terms) for ref in _ports(term))
        return list(dict.fromkeys(refs))

    def missing(self) -> Term | None:
        """The first node that nothing has derived from the inputs."""
        reached: set[Term] = set()
        for term in self.terms:
            firsts = [self.place(ref).term for ref in _ports(term)]
            ways = self.made.get(firsts[0], ())
            if not any(all(t.op == "input" or t in reached for t in way) for way in ways):
                return term
            reached.update(firsts)
        return None


def _ports(term: Term) -> tuple[Ref, ...]:
    return tuple(Ref(term, i) for i in range(len(term.types)))
