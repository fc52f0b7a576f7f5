"""The typed graph: a frozen networkx MultiDiGraph of the terms that the outputs need."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import networkx as nx

from einspace.types import Outputs, Ref, Term
from grammar.domain import Scalar
from ops.spec import Cost, TensorType


@dataclass(frozen=True, slots=True)
class GraphNode:
    """One op. `inputs` are (node id, output port) pairs, the flow first; the last `len(roles)` of
    them are the declared further inputs. Equal `module` keys share weights. `held`: a sum that the
    norm after it makes (`einspace.passes.join`)."""

    id: int
    op: str
    args: Mapping[str, Scalar]
    constructor: Mapping[str, Any]
    inputs: tuple[tuple[int, int], ...]
    roles: tuple[str, ...]
    types: tuple[TensorType, ...]
    module: str
    cost: Cost = field(default_factory=Cost)
    causal: bool = True
    held: bool = False

    @property
    def type(self) -> TensorType:
        """The type of the node's value: a tuple type for several outputs."""
        return self.types[0] if len(self.types) == 1 else TensorType("tuple", (), self.types)


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in topological order, and the refs that are the model's outputs."""

    nodes: tuple[GraphNode, ...]
    output: tuple[tuple[int, int], ...]
    output_names: tuple[str, ...] = ()

    def __getitem__(self, node_id: int) -> GraphNode:
        return self.by_id()[node_id]

    def by_id(self) -> dict[int, GraphNode]:
        """Nodes by id."""
        return {n.id: n for n in self.nodes}

    def readers(self) -> dict[int, list[int]]:
        """Node id -> ids that read it, in order, once per edge."""
        found: dict[int, list[int]] = {n.id: [] for n in self.nodes}
        for node in self.nodes:
            for source, _ in node.inputs:
                found[source].append(node.id)
        return found

    def network(self) -> "nx.MultiDiGraph[int]":
        """The same graph for networkx, frozen."""
        net: nx.MultiDiGraph[int] = nx.MultiDiGraph()
        for node in self.nodes:
            net.add_node(node.id, node=node)
        for node in self.nodes:
            for index, (source, port) in enumerate(node.inputs):
                net.add_edge(source, node.id, port=port, index=index)
        return nx.freeze(net)

    def modules(self) -> Iterator[GraphNode]:
        """The first node of each module, so that shared weights are met once."""
        seen: set[str] = set()
        for node in self.nodes:
            if node.op != "input" and node.module not in seen:
                seen.add(node.module)
                yield node

    @property
    def input_nodes(self) -> tuple[GraphNode, ...]:
        return tuple(n for n in self.nodes if n.op == "input")

    @property
    def output_type(self) -> TensorType:
        kinds = tuple(self[i].types[port] for i, port in self.output)
        return kinds[0] if len(kinds) == 1 else TensorType("tuple", (), kinds)


def collect(outputs: Outputs, roots: tuple[Ref, ...]) -> Graph:
    """The graph of all terms that the outputs need; `roots` are the task's inputs, always kept."""
    order: list[Term] = [r.term for r in roots]
    seen = {id(t) for t in order}
    stack: list[tuple[Term, bool]] = [(r.term, False) for r in reversed(outputs.refs)]
    while stack:
        term, ready = stack.pop()
        if ready:
            order.append(term)
        elif id(term) not in seen:
            seen.add(id(term))
            stack.append((term, True))
            stack.extend((r.term, False) for r in reversed(term.inputs))
    ids = {id(term): i for i, term in enumerate(order)}
    used = (*outputs.refs, *(r for t in order for r in t.inputs))
    read = {id(r.term) for r in used if r.port >= len(r.term.types) - r.term.exports}
    nodes = tuple(
        GraphNode(
            ids[id(t)],
            t.op,
            t.args,
            t.constructor,
            tuple((ids[id(r.term)], r.port) for r in t.inputs),
            t.roles,
            t.types if id(t) in read else t.types[: len(t.types) - t.exports],
            t.module,
            t.cost,
            t.causal,
        )
        for t in order
    )
    out = tuple((ids[id(r.term)], r.port) for r in outputs.refs)
    return Graph(nodes, out, outputs.names)
