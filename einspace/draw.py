"""Draw a graph as text or as Graphviz source; equal blocks in sequence are drawn once, `x n`.

The values that cross a *cut* (a place where one value alone is alive) make segments. Segments of
the same shape that follow each other, alone or in groups, are one fold. Everything taken from a
user's text is escaped here, so a drawing holds no markup but ours.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from einspace.graph import Graph, GraphNode
from einspace.optable import families, table

MAX_DRAWN = 400
_PERIODS = 48
_COLOURS: Mapping[str, str] = {
    "act": "#f5f5f4",
    "attention": "#dbeafe",
    "conv": "#dcfce7",
    "embed": "#fef9c3",
    "linear": "#e0e7ff",
    "memory": "#cffafe",
    "merge": "#f1f5f9",
    "mlp": "#fae8ff",
    "norm": "#f4f4f5",
    "pair": "#ffe4e6",
    "pool": "#ffedd5",
    "recurrent": "#d1fae5",
    "shape": "#f1f5f9",
}


@dataclass(frozen=True, slots=True)
class Fold:
    """Nodes `start..start+size` (positions), drawn once for `times` copies."""

    start: int
    size: int
    times: int
    shared: bool = False


def _segments(graph: Graph) -> tuple[list[tuple[int, int]], dict[int, int]]:
    """Half-open ranges of positions between cuts, and the position of each node id."""
    at = {node.id: i for i, node in enumerate(graph.nodes)}
    last = list(range(len(at)))
    ports: list[set[int]] = [set() for _ in at]
    for i, node in enumerate(graph.nodes):
        for source, port in node.inputs:
            last[at[source]] = i
            ports[at[source]].add(port)
    for source, port in graph.output:
        last[at[source]] = len(at)
        ports[at[source]].add(port)
    found, begin, reach = [], 0, -1
    for i in range(len(at)):
        if reach <= i < last[i] and len(ports[i]) == 1:
            found.append((begin, i + 1))
            begin = i + 1
        reach = max(reach, last[i])
    if begin < len(at):
        found.append((begin, len(at)))
    return found, at


def _signature(
    graph: Graph, span: tuple[int, int], at: Mapping[int, int]
) -> tuple[tuple[object, ...], ...]:
    begin, end = span
    return tuple(
        (
            node.op,
            tuple((k, repr(v)) for k, v in node.args.items()),
            tuple((max(at[source] - begin, -1), port) for source, port in node.inputs),
            str(node.type),
            node.cost.params,
        )
        for node in graph.nodes[begin:end]
    )


def _weights(graph: Graph, begin: int, size: int) -> tuple[str, ...]:
    return tuple(n.module for n in graph.nodes[begin : begin + size] if n.cost.params)


def _run(keys: Sequence[int], start: int, period: int) -> int:
    """How often the `period` segments from `start` on follow each other."""
    head, times = keys[start : start + period], 1
    while keys[start + times * period : start + (times + 1) * period] == head:
        times += 1
    return times


def _uses(graph: Graph) -> dict[str, int]:
    """How many nodes use each module that has parameters."""
    return dict(Counter(node.module for node in graph.nodes if node.cost.params))


def _sharing(
    graph: Graph, start: int, size: int, times: int, uses: Mapping[str, int]
) -> bool | None:
    """True: all copies use one set of weights; False: each its own; None: neither, or weights
    that are used elsewhere too."""
    sets = [_weights(graph, start + k * size, size) for k in range(times)]
    used = Counter(module for one in sets for module in one)
    if any(uses[module] != count for module, count in used.items()):
        return None
    if all(count == 1 for count in used.values()):
        return False
    return True if len(set(sets)) == 1 and len(set(sets[0])) == len(sets[0]) else None


def folds(graph: Graph) -> tuple[Fold, ...]:
    """The nodes in order, runs of equal blocks folded (of two copies only if they are large)."""
    spans, at = _segments(graph)
    names: dict[tuple[tuple[object, ...], ...], int] = {}
    keys = [names.setdefault(_signature(graph, span, at), len(names)) for span in spans]
    uses = _uses(graph)
    found: list[Fold] = []
    i = 0
    while i < len(keys):
        best = Fold(spans[i][0], spans[i][1] - spans[i][0], 1)
        taken = 1
        for period in range(1, min(_PERIODS, (len(keys) - i) // 2) + 1):
            times = _run(keys, i, period)
            size = spans[i + period - 1][1] - spans[i][0]
            shared = _sharing(graph, spans[i][0], size, times, uses) if times > 1 else None
            worth = times > 2 or size > 3
            if shared is not None and worth and times * size > best.times * best.size:
                best, taken = Fold(spans[i][0], size, times, shared), times * period
        found.append(best)
        i += taken
    return tuple(found)


def short(count: float) -> str:
    """`1234567` as `1.23M`."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K")):
        if count >= limit:
            return f"{count / limit:.3g}{unit}"
    return f"{count:g}"


def word_of(value: object) -> str:
    """A value as the language writes it."""
    if isinstance(value, tuple):
        return f"[{','.join(map(word_of, value))}]"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def label(node: GraphNode) -> str:
    """`softmax_attn(heads=4, causal)`: one printable line, at most 100 characters, no defaults."""
    op = table().get(node.op)
    usual = {k: d.default for k, d in op.params.items()} if op else {}
    given = {k: v for k, v in node.args.items() if k not in usual or usual[k] != v}
    parts = [k if v is True else f"{k}={word_of(v)}" for k, v in given.items()]
    if node.op == "input":
        text = " ".join(["input", *(word_of(v) for v in node.args.values())])
    else:
        text = node.op + (f"({', '.join(parts)})" if parts else "")
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= 100 else text[:99] + "…"


def _shown(graph: Graph) -> Iterator[tuple[Fold, Sequence[GraphNode]]]:
    """Folds with their nodes, until `MAX_DRAWN` nodes are shown."""
    room = MAX_DRAWN
    for fold in folds(graph):
        part = graph.nodes[fold.start : fold.start + fold.size]
        if room <= 0:
            return
        yield fold, part[:room]
        room -= len(part)


def _copies(fold: Fold) -> str:
    return f"x {fold.times}" + (", shared weights" if fold.shared else "")


def to_text(graph: Graph) -> str:
    """One line a node: number, op, type, parameters, and its inputs where not the line above."""
    rows: list[tuple[str, str, str, str]] = []
    drawn, previous = 0, None
    for fold, part in _shown(graph):
        if fold.times > 1:
            rows.append((f"     {_copies(fold)}", "", "", ""))
        for node in part:
            mark = "| " if fold.times > 1 else ""
            sources = [f"{s}.{p}" if p else str(s) for s, p in node.inputs]
            plain = sources == [str(previous)] or not sources
            params = short(node.cost.params) if node.cost.params else ""
            row = f"{node.id:4d} {mark}{label(node)}", str(node.type), params
            rows.append((*row, "" if plain else "<- " + ", ".join(sources)))
            previous = node.id
        drawn += fold.size * fold.times if len(part) == fold.size else len(part)
        if fold.times > 1:
            previous = graph.nodes[fold.start + fold.size * fold.times - 1].id
    wide = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    lines = [
        f"{a:{wide[0]}}  {b:{wide[1]}}  {c:>{wide[2]}}  {d}".rstrip() if b else a
        for a, b, c, d in rows
    ]
    if drawn < len(graph.nodes):
        lines.append(f"     ... and {len(graph.nodes) - drawn:,} more nodes")
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    """A DOT string; Graphviz would also read character entities in it, hence `&`."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
    return '"' + plain.replace("\n", "\\n") + '"'


def _box(node: GraphNode, colours: Mapping[str, str], shared: bool) -> str:
    params = f"  {short(node.cost.params)}" if node.cost.params else ""
    lines = [label(node), f"{node.type}"[:100] + params + ("  shared" if shared else "")]
    fill = "#ffffff" if node.op == "input" else _COLOURS.get(colours.get(node.op, ""), "#f5f5f4")
    # No font is present where Graphviz lays out, so the width of the monospaced text is ours.
    width = max(map(len, lines)) * 0.0862 + 0.25
    style = "rounded,filled,dashed" if shared else "rounded,filled"
    return (
        f"n{node.id} [label={_quote(chr(10).join(lines))} width={width:.2f} "
        f'fillcolor="{fill}" style="{style}"];'
    )


def to_dot(graph: Graph) -> str:
    """Graphviz source: one box a node, coloured by family; a fold is a cluster."""
    colours = families()
    uses = _uses(graph)
    lines = [
        "digraph g {",
        'rankdir=TB; nodesep=0.25; ranksep=0.22; bgcolor="white";',
        'node [shape=box fontname="DejaVu Sans Mono,monospace" fontsize=10 color="#94a3b8" '
        'fontcolor="#0f172a" height=0.42 margin="0.05,0.03"];',
        'edge [color="#64748b" arrowsize=0.6];',
    ]
    # A reader of a fold's last copy reads the last node of the one copy drawn.
    stands: dict[int, int] = {}
    drawn: set[int] = set()
    for fold, part in _shown(graph):
        boxes = [
            _box(n, colours, uses.get(n.module, 0) > 1 and not fold.shared and n.cost.params > 0)
            for n in part
        ]
        if fold.times > 1:
            head = _quote(_copies(fold))
            lines.append(f"subgraph cluster_{fold.start} {{ label={head}; labeljust=l;")
            lines.append('fontname="DejaVu Sans Mono,monospace"; fontsize=11; color="#94a3b8";')
            boxes.append("}")
        lines += boxes
        drawn |= {n.id for n in part}
        for copy in range(1, fold.times):
            for k, node in enumerate(part):
                stands[graph.nodes[fold.start + copy * fold.size + k].id] = node.id
    lines += _edges(graph, drawn, stands)
    return "\n".join([*lines, "}"]) + "\n"


def _edges(graph: Graph, drawn: set[int], stands: Mapping[int, int]) -> Iterator[str]:
    for node in graph.nodes:
        if node.id not in drawn:
            continue
        for source, port in node.inputs:
            origin = stands.get(source, source)
            if origin in drawn:
                mark = f' [taillabel="{port}" fontsize=8]' if port else ""
                yield f"n{origin} -> n{node.id}{mark};"
    yield 'out [label="output" shape=plaintext height=0.2];'
    for source, _ in graph.output:
        if stands.get(source, source) in drawn:
            yield f"n{stands.get(source, source)} -> out;"
    missing = len(graph.nodes) - len(drawn) - len(stands)
    if missing > 0:
        yield f'more [label="... and {missing} more nodes" shape=plaintext];'
