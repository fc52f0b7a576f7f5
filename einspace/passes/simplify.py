"""Simplification: rules that remove work without changing what the model computes.

Each rule makes all its changes in one sweep and returns None when there was nothing to do.
"""

from collections.abc import Mapping
from dataclasses import replace

from einspace.graph import Graph, GraphNode

Place = tuple[int, int]


def _redirect(graph: Graph, moved: Mapping[int, Place]) -> Graph:
    """Readers of a removed node read what it stood for; unread ops are dropped."""

    def final(place: Place) -> Place:
        while place[0] in moved and place[1] == 0:
            place = moved[place[0]]
        return place

    nodes = tuple(
        replace(n, inputs=tuple(final(p) for p in n.inputs))
        for n in graph.nodes
        if n.id not in moved
    )
    return _prune(replace(graph, nodes=nodes, output=tuple(final(p) for p in graph.output)))


def _prune(graph: Graph) -> Graph:
    needed = {i for i, _ in graph.output}
    kept: list[GraphNode] = []
    for node in reversed(graph.nodes):
        if node.id in needed or node.op == "input":
            kept.append(node)
            needed.update(source for source, _ in node.inputs)
    return replace(graph, nodes=tuple(reversed(kept)))


def drop_identity(graph: Graph) -> Graph | None:
    """`id` is its input."""
    moved = {n.id: n.inputs[0] for n in graph.nodes if n.op == "id"}
    return _redirect(graph, moved) if moved else None


def drop_permute_pairs(graph: Graph) -> Graph | None:
    """Two permutes that undo each other are nothing."""
    nodes = graph.by_id()
    for node in graph.nodes:
        below = nodes[node.inputs[0][0]] if node.op == "permute" else None
        if below is not None and below.op == "permute":
            first, second = below.args["order"], node.args["order"]
            assert isinstance(first, tuple)
            assert isinstance(second, tuple)
            same = len(first) == len(second)
            if same and all(first[i - 1] == at for at, i in enumerate(second, 1)):
                return _redirect(graph, {node.id: below.inputs[0]})
    return None


def flatten_sums(graph: Graph) -> Graph | None:
    """A sum read only by a sum joins it: one addition chain instead of two nodes."""
    readers, nodes = graph.readers(), graph.by_id()
    outputs = {i for i, _ in graph.output}
    for node in graph.nodes:
        if node.op != "add":
            continue
        for at, (source, _) in enumerate(node.inputs):
            below = nodes[source]
            if below.op == "add" and readers[source] == [node.id] and source not in outputs:
                joined = (*node.inputs[:at], *below.inputs, *node.inputs[at + 1 :])
                flat = replace(node, inputs=joined)
                swapped = tuple(flat if n.id == node.id else n for n in graph.nodes)
                return _prune(replace(graph, nodes=swapped))
    return None


RULES = (drop_identity, drop_permute_pairs, flatten_sums)
