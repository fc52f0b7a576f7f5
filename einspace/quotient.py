"""Which places of a graph are alike, so that branches that are copies are derived once.

Two outputs of nodes are alike if they are made alike (same op, arguments and inputs, in order) and
used alike (by nodes that are alike, equally often): the coarsest such equivalence, by refinement.
Derived over its classes, a part stands for all its copies. Where every value has one use, the part
that leads from one place to another is the region between them; it is derived rightly if it has as
many nodes as that, which `Regions` counts.

Source: colour refinement (Weisfeiler & Leman 1968), on a directed graph both ways.
"""

from collections.abc import Callable, Mapping, Sequence

from einspace.types import Ref, Term

Bare = Callable[[Ref], Ref]
Colours = Mapping[Term, int]
ROUNDS = 1_000


class Classes:
    """The classes of a finished graph; `terms` stand after their inputs."""

    def __init__(self, terms: Sequence[Term], outputs: Sequence[Ref], bare: Bare) -> None:
        self.terms, self.bare = terms, bare
        self.users: dict[Ref, list[Term]] = {}
        for term in terms:
            for ref in term.inputs:
                self.users.setdefault(bare(ref), []).append(term)
        self.ends = {ref: i for i, ref in enumerate(outputs)}
        colours: Colours = dict.fromkeys(terms, 0)
        for _ in range(ROUNDS):
            made = self._sweep(terms, colours, self._made)
            used = self._sweep(terms[::-1], made, self._used)
            stable = len(set(used.values())) == len(set(colours.values()))
            colours = used
            if stable:
                break
        first: dict[object, Ref] = {}
        self.of = {
            ref: first.setdefault((colours[ref.term], self._readers(ref, colours)), ref)
            for term in terms
            for ref in (Ref(term, i) for i in range(len(term.types)))
        }

    @staticmethod
    def _sweep(
        terms: Sequence[Term], old: Colours, key: Callable[[Term, Colours, Colours], object]
    ) -> Colours:
        """Finer colours, one term after the other, so that one sweep goes through the graph."""
        new: dict[Term, int] = {}
        known: dict[object, int] = {}
        for term in terms:
            new[term] = known.setdefault((old[term], key(term, old, new)), len(known))
        return new

    def _made(self, term: Term, old: Colours, new: Colours) -> object:
        inputs = [self._input(self.bare(ref), old, new) for ref in term.inputs]
        ordered = sorted(inputs, key=repr) if term.op == "add" else inputs
        return (
            term.op,
            tuple((n, repr(v)) for n, v in term.args.items()),
            term.roles,
            tuple(ordered),
        )

    def _input(self, ref: Ref, old: Colours, new: Colours) -> object:
        if ref.term not in new:
            return str(ref.term.args.get("name"))
        return new[ref.term], self._readers(ref, old)

    def _used(self, term: Term, old: Colours, new: Colours) -> object:
        return tuple(self._readers(Ref(term, i), new) for i in range(len(term.types)))

    def _readers(self, ref: Ref, colours: Colours) -> object:
        return tuple(sorted(colours[t] for t in self.users.get(ref, ()))), self.ends.get(ref)

    def place(self, ref: Ref) -> Ref:
        """The first place that is alike."""
        bare = self.bare(ref)
        return self.of.get(bare, bare)


class Regions:
    """How many nodes lie between two places; None where a path goes round the first one."""

    def __init__(self, classes: Classes, counted: Callable[[Term], bool]) -> None:
        self.classes, self.counted = classes, counted
        self._known: dict[tuple[Ref, Ref], int | None] = {}

    def size(self, start: Ref, end: Ref) -> int | None:
        key = start, end
        if key not in self._known:
            self._known[key] = self._count(start, end)
        return self._known[key]

    def _count(self, start: Ref, end: Ref) -> int | None:
        place, bare = self.classes.place, self.classes.bare
        met: set[Ref] = set()
        seen: set[Term] = set()
        stack = [bare(end)]
        while stack:
            ref = stack.pop()
            if place(ref) == start:
                met.add(ref)
            elif ref.term.op == "input":
                return None
            elif ref.term not in seen:
                seen.add(ref.term)
                stack.extend(map(bare, ref.term.inputs))
        return sum(map(self.counted, seen)) if len(met) == 1 else None
