"""Where a graph repeats itself: a chain of segments, folded into loops.

A segment is a run of nodes with one value flowing in and one out. Equal neighbouring runs of
segments become a `Loop`, which the emitted file writes as one class and a `ModuleList`.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from einspace.graph import Graph, GraphNode

LONGEST_PERIOD = 32
SMALLEST_BODY = 3


@dataclass(frozen=True, slots=True)
class Segment:
    """Nodes between two cuts; `key` is equal for segments of equal structure.

    `bound`: it has a module in common with another segment, so it cannot be written as a copy.
    """

    nodes: tuple[GraphNode, ...]
    key: Hashable
    bound: bool = False


@dataclass(frozen=True, slots=True)
class Loop:
    """`copies[i]` are the parts of the i-th repetition, all of one structure."""

    copies: tuple[tuple["Part", ...], ...]


Part: TypeAlias = Segment | Loop


def nodes_of(parts: Sequence[Part]) -> list[GraphNode]:
    """All nodes of the parts, in order."""
    found: list[GraphNode] = []
    for part in parts:
        if isinstance(part, Segment):
            found.extend(part.nodes)
        else:
            for copy in part.copies:
                found.extend(nodes_of(copy))
    return found


def parts(graph: Graph) -> tuple[Part, ...]:
    """The ops of the graph as segments and loops, in order."""
    return _fold(segments(graph))


def segments(graph: Graph) -> list[Segment]:
    """The ops of the graph cut wherever a single value flows, in order."""
    ops = [n for n in graph.nodes if n.op != "input"]
    at = {n.id: i for i, n in enumerate(ops)}
    uses: dict[str, int] = {}
    for node in ops:
        uses[node.module] = uses.get(node.module, 0) + 1
    last = {n.id: -1 for n in graph.nodes}  # the position of a value's last reader
    for i, node in enumerate(ops):
        for source, port in node.inputs:
            last[source] = max(last[source], i if port == 0 else len(ops))
    for source, _ in graph.output:
        last[source] = len(ops)
    found: list[Segment] = []
    run: list[GraphNode] = []
    alive: set[int] = {n.id for n in graph.input_nodes if last[n.id] >= 0}
    for i, node in enumerate(ops):
        run.append(node)
        alive.add(node.id)
        alive = {k for k in alive if last[k] > i}
        if alive <= {node.id} and len(node.types) == 1:
            inside = [n.module for n in run]
            bound = any(inside.count(m) < uses[m] for m in inside)
            found.append(Segment(tuple(run), _key(run, at, uses), bound))
            run = []
    if run:
        found.append(Segment(tuple(run), ("rest", _key(run, at, uses)), True))
    return found


def _key(run: Sequence[GraphNode], at: dict[int, int], uses: dict[str, int]) -> Hashable:
    first = at[run[0].id]
    local: dict[str, int] = {}
    rows = []
    for node in run:
        mine = sum(n.module == node.module for n in run) == uses[node.module]
        shared = local.setdefault(node.module, len(local)) if mine else node.module
        places = tuple((max(-1, at.get(s, -1) - first), port) for s, port in node.inputs)
        made = tuple(sorted((k, repr(v)) for k, v in node.constructor.items()))
        kinds = tuple(str(t) + str(t.may_pad) for t in node.types)
        rows.append((node.op, made, places, node.roles, kinds, shared))
    return tuple(rows)


def _fold(segments: Sequence[Segment]) -> tuple[Part, ...]:
    ids: dict[Hashable, int] = {}
    keys = [ids.setdefault(s.key, len(ids)) for s in segments]
    found: list[Part] = []
    i = 0
    while i < len(segments):
        period, count = _best_run(keys, segments, i)
        if count < 2:
            found.append(segments[i])
            i += 1
            continue
        copies = [_fold(segments[i + c * period : i + (c + 1) * period]) for c in range(count)]
        found.append(Loop(tuple(copies)))
        i += period * count
    return tuple(found)


def _best_run(keys: Sequence[int], segments: Sequence[Segment], i: int) -> tuple[int, int]:
    best = (1, 1)
    for period in range(1, min(LONGEST_PERIOD, (len(keys) - i) // 2) + 1):
        body = keys[i : i + period]
        if any(s.bound for s in segments[i : i + period]):
            continue
        if sum(len(s.nodes) for s in segments[i : i + period]) < SMALLEST_BODY:
            continue
        count = 1
        while keys[i + count * period : i + (count + 1) * period] == body:
            count += 1
        if count > 1 and period * count > best[0] * best[1]:
            best = (period, count)
    return best
