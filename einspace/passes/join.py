"""Fusion: a sum and the norm that reads it are one kernel (`joined` of the norm's module).

Nothing of the architecture changes: the same nodes, parameters and names; the sum is marked as
`held`, and the emitted file writes both at the norm. Around a loop of pre-norm blocks the sum at
the end of one block is held for the norm at the start of the next.
"""

from collections.abc import Sequence
from dataclasses import replace

from einspace.graph import Graph, GraphNode
from einspace.repeats import Loop, Segment, nodes_of

JOINING = ("layer_norm", "rms_norm", "srms_norm")


def joins(node: GraphNode) -> bool:
    """Whether this norm can make the sum that it reads: vectors of one axis, not images."""
    return node.op in JOINING and node.type.kind in ("seq", "vec")


def hold_sums(graph: Graph) -> Graph | None:
    """`add >> norm`: a sum of two is held back where the very next node is a norm of it."""
    found = {
        node.id
        for node, after in zip(graph.nodes, graph.nodes[1:], strict=False)
        if node.op == "add" and len(node.inputs) == 2 and not node.held
        if joins(after) and after.inputs[0] == (node.id, 0)
    }
    if not found:
        return None
    return replace(
        graph, nodes=tuple(replace(n, held=n.held or n.id in found) for n in graph.nodes)
    )


def carried(loop: Loop) -> bool:
    """Whether copies of a loop hand a held sum on: each starts with a norm and ends with a sum."""
    first, last = loop.copies[0][0], loop.copies[0][-1]
    if not (isinstance(first, Segment) and isinstance(last, Segment)):
        return False
    between = all(nodes_of(copy)[-1].held for copy in loop.copies[:-1])
    ends = nodes_of(loop.copies[-1])[-1]
    return between and joins(first.nodes[0]) and len(ends.inputs) == 2


def taken(order: Sequence[GraphNode | Loop], *, hands_on: bool) -> set[int]:
    """The sums of a class that need no line: what comes next takes their two parts."""
    found = set()
    for event, after in zip(order, (*order[1:], None), strict=False):
        node = nodes_of(event.copies[-1])[-1] if isinstance(event, Loop) else event
        norm = isinstance(after, GraphNode) or (after is not None and carried(after))
        if hands_on if after is None else node.held and norm:
            found.add(node.id)
    return found


FUSIONS = (hold_sums,)
