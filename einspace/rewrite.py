"""Rewriting: named rules repeated to a fixed point, with the graph verified after each.

A rule takes a graph and returns a smaller or simpler one, or None when it does not apply. The
driver verifies that ids, edges and output types still agree, and stops at a step limit.
"""

from collections.abc import Callable, Sequence

from einspace.graph import Graph
from einspace.passes.simplify import RULES

Rule = Callable[[Graph], Graph | None]
STEPS = 20_000


def verify(before: Graph, after: Graph) -> None:
    """Raises: AssertionError when a rule broke the graph."""
    seen: set[int] = set()
    by_id = after.by_id()
    assert len(by_id) == len(after.nodes), "two nodes share an id"
    for node in after.nodes:
        for source, port in node.inputs:
            assert source in seen, f"node {node.id} reads {source} before it is made"
            assert port < len(by_id[source].types), f"node {source} has no output {port}"
        seen.add(node.id)
    kinds = [(by_id[i].types[p].kind, by_id[i].types[p].shape) for i, p in after.output]
    old = before.by_id()
    assert kinds == [(old[i].types[p].kind, old[i].types[p].shape) for i, p in before.output]


def simplify(graph: Graph, rules: Sequence[Rule] = RULES) -> Graph:
    """Apply `rules` until none applies."""
    for _ in range(STEPS):
        for rule in rules:
            after = rule(graph)
            if after is not None:
                verify(graph, after)
                graph = after
                break
        else:
            return graph
    raise AssertionError("the rules do not come to rest")
