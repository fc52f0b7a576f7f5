"""What a graph costs: parameters, FLOPs, bytes, nodes, depth, causality."""

from dataclasses import dataclass

from einspace.graph import Graph


@dataclass(frozen=True, slots=True)
class Totals:
    """`flops`: forward, one sample; `state_bytes`: one sequence, fp32; `activation_bytes`: outputs
    and what ops keep for the backward pass, one sample; `depth`: the longest path in ops."""

    params: int
    flops: int
    activation_bytes: int
    state_bytes: int
    nodes: int
    depth: int
    causal: bool


def totals(graph: Graph) -> Totals:
    """Sums over the graph: shared parameters once, FLOPs and state per use."""
    depth: dict[int, int] = {}
    for node in graph.nodes:
        below = max((depth[source] for source, _ in node.inputs), default=0)
        depth[node.id] = below + (node.op != "input")
    ops = [n for n in graph.nodes if n.op != "input"]
    out_bytes = 4 * sum(t.numel for n in ops for t in n.types)
    return Totals(
        params=sum(n.cost.params for n in graph.modules()),
        flops=sum(n.cost.flops for n in ops),
        activation_bytes=out_bytes + sum(n.cost.activation for n in ops),
        state_bytes=sum(n.cost.state for n in ops),
        nodes=len(ops),
        depth=max(depth.values(), default=0),
        causal=all(n.causal for n in ops),
    )
