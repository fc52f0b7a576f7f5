"""Features of an architecture, for surrogates: sparse counts, and a matrix over the common ones.

    op:conv2d            how many nodes have this op
    arg:conv2d.kernel=3  how many nodes have this argument
    path:relu>conv2d     how many edges join these ops; likewise over two edges
    wl1:5f0c...          how many nodes root this Weisfeiler-Lehman subtree of height 1 (0..2)
    pick:mix=2           how often option 2 was taken at this choice point of the space
    at:/net/1=0          option 0 was taken at this very address
    log_params, log_flops, log_nodes, log_depth   natural logarithms of one plus the number
    proxy                sign(p) log(1 + |p|) of a zero-cost proxy p, where a search computes one

Subtree labels: l_0(v) = (op, arguments, kind of its type), l_{h+1}(v) = (l_h(v), the sorted l_h of
what v reads), each hashed by blake2b, so that they are equal in every process
(Shervashidze et al. 2011, JMLR 12:2539; on architectures: Ru et al. 2021, arXiv:2006.07556).

What is of the graph depends on the normal form alone and is kept by id; what is of the trace
depends on the trace alone. Rows given as text have no trace: their `pick` and `at` are zero.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from einspace.candidates import Frame
from einspace.compile import Closed, typed
from einspace.cost import totals
from einspace.graph import Graph
from grammar.ast import Space
from grammar.derive import derive
from grammar.parse import parse
from grammar.walk import Limits

Features: TypeAlias = Mapping[str, float]
Matrix: TypeAlias = NDArray[np.float64]
HEIGHT = 2
COSTS = ("log_params", "log_flops", "log_nodes", "log_depth")
PROXY = "proxy"


def graph_features(graph: Graph) -> dict[str, float]:
    """All features that need no trace."""
    count = Counter[str]()
    ops = {node.id: node.op for node in graph.nodes}
    reads = {node.id: [source for source, _ in node.inputs] for node in graph.nodes}
    for node in graph.nodes:
        count[f"op:{node.op}"] += 1
        count.update(f"arg:{node.op}.{name}={value}" for name, value in node.args.items())
        for source in reads[node.id]:
            count[f"path:{ops[source]}>{node.op}"] += 1
            count.update(f"path:{ops[far]}>{ops[source]}>{node.op}" for far in reads[source])
    labels = {
        node.id: _hash(node.op, *sorted(f"{k}={v}" for k, v in node.args.items()), node.type.kind)
        for node in graph.nodes
    }
    for height in range(HEIGHT + 1):
        count.update(f"wl{height}:{label}" for label in labels.values())
        labels = {
            i: _hash(label, *sorted(labels[source] for source in reads[i]))
            for i, label in labels.items()
        }
    cost = totals(graph)
    sizes = (cost.params, cost.flops, cost.nodes, cost.depth)
    logs = {name: math.log1p(size) for name, size in zip(COSTS, sizes, strict=True)}
    return {**{name: float(n) for name, n in count.items()}, **logs}


def trace_features(trace: Mapping[str, int], space: Space) -> dict[str, float]:
    """The choices, once by their place in the space's text and once by address."""
    rules = {decl.name for decl in space.decls}
    count = Counter(f"pick:{_point(address, rules)}={option}" for address, option in trace.items())
    found = {name: float(n) for name, n in count.items()}
    return found | {f"at:{address}={option}": 1.0 for address, option in trace.items()}


def proxy_feature(proxy: float) -> float:
    """Proxies span orders of magnitude, and some are negative."""
    return math.copysign(math.log1p(abs(proxy)), proxy)


class Featurizer:
    """Features of the architectures of one frame; remembers the graphs' part by id, and the whole
    by id and trace."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self._graphs: dict[str, Features] = {}
        self._known: dict[tuple[str, tuple[tuple[str, int], ...]], Features] = {}

    def __call__(
        self, text: str, hash_: str, trace: Mapping[str, int], closed: Space | None = None
    ) -> Features:
        """Features of a normal form; `closed` is its tree where that is known.

        Raises: SpaceError if it is no architecture of the task.
        """
        key = hash_, tuple(trace.items())
        if (known := self._known.get(key)) is not None:
            return known
        graph = self._graphs.get(hash_)
        if graph is None:
            made, _ = derive(closed or parse(text), Closed(), self.frame.typing, Limits())
            graph = self._graphs[hash_] = graph_features(typed(made, self.frame.typing))
        found = self._known[key] = {**graph, **trace_features(trace, self.frame.space)}
        return found


class Columns:
    """The features that at least `least` of some rows have, in a fixed order."""

    def __init__(self, rows: Sequence[Features], least: int = 2) -> None:
        seen = Counter(name for row in rows for name in row)
        self.names = sorted(name for name, n in seen.items() if n >= least)
        self._index = {name: i for i, name in enumerate(self.names)}

    def matrix(self, rows: Sequence[Features]) -> Matrix:
        """[rows, names]; what a row lacks is 0, what the columns lack is dropped."""
        found = np.zeros((len(rows), len(self.names)))
        for i, row in enumerate(rows):
            for name, value in row.items():
                if (j := self._index.get(name)) is not None:
                    found[i, j] = value
        return found


def _hash(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def _point(address: str, rules: set[str]) -> str:
    """The address from the last rule on: where in the text of the space the choice stands."""
    parts = address.strip("/").split("/")
    for i in reversed(range(len(parts))):
        if re.split(r"[:\[]", parts[i])[0] in rules:
            return "/".join(parts[i:])
    return address
