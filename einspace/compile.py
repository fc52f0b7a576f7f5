"""Compile: text to one readable PyTorch file, in milliseconds. Read this file first.

text -parse-> Space -check-> Checked -derive-> Derivation -collect-> Graph -emit-> source
"""

from collections.abc import Mapping
from dataclasses import dataclass

from einspace.cost import Totals, totals
from einspace.emit import emit
from einspace.graph import Graph, collect
from einspace.interface import Interface
from einspace.optable import table
from einspace.passes.join import FUSIONS
from einspace.rewrite import simplify
from einspace.types import Outputs, Ref, Typing
from grammar.ast import Space
from grammar.derive import derive
from grammar.errors import SpaceError
from grammar.normal import text_of
from grammar.parse import parse
from grammar.pcfg import check_space
from grammar.walk import Derivation, Limits
from ops.spec import Op


class Closed:
    """The chooser for a text without holes: it is never asked."""

    def pick(self, address: str, options: object, weights: object) -> int:
        """Raises: SpaceError, because the text has a choice."""
        raise SpaceError(
            "this text is a space: it has choices", hint="einspace sample draws from it"
        )


@dataclass(frozen=True, slots=True)
class Compiled:
    """An architecture ready to run: normal form, id, typed graph, cost and the file's source.

    `eager`: why its training step cannot be captured as a CUDA graph; "" where nothing is known
    against it.
    """

    text: str
    hash: str
    graph: Graph
    totals: Totals
    source: str
    interface: Interface
    eager: str = ""

    @property
    def params(self) -> int:
        return self.totals.params

    @property
    def flops(self) -> int:
        return self.totals.flops

    @property
    def state_bytes(self) -> int:
        return self.totals.state_bytes

    @property
    def causal(self) -> bool:
        return self.totals.causal

    @property
    def nodes(self) -> int:
        return self.totals.nodes

    @property
    def depth(self) -> int:
        return self.totals.depth

    @property
    def input(self) -> str:
        return ",".join(str(t) for t in self.interface.inputs.values())

    @property
    def output(self) -> str:
        return str(self.graph.output_type)


def typed(derivation: Derivation, typing: Typing) -> Graph:
    """The graph of a derivation."""
    value = derivation.value
    assert isinstance(value, Outputs)
    roots = tuple(r for r in typing.inputs().values() if isinstance(r, Ref))
    return collect(value, roots)


def compile_space(
    space: Space, interface: Interface, ops: Mapping[str, Op] | None = None
) -> Compiled:
    """Compile a closed sentence. Raises: SpaceError with the place of what does not fit."""
    typing = Typing(ops or table(), interface)
    check_space(space, typing.signatures, tuple(interface.inputs))
    derivation, _ = derive(space, Closed(), typing, Limits())
    return compile_derivation(derivation, typing)


def compile_derivation(derivation: Derivation, typing: Typing) -> Compiled:
    """Rewrite, emit and name what a derivation gave."""
    text, hash_ = text_of(derivation.closed, typing.signatures)
    graph = simplify(typed(derivation, typing))
    cost = totals(graph)
    source = emit(typing.table, simplify(graph, FUSIONS), text, hash_, cost)
    barred = sorted({n.op for n in graph.nodes if n.op in typing.table} - _capturable(typing.table))
    eager = f"{', '.join(barred)} cannot be captured" if barred else ""
    return Compiled(text, hash_, graph, cost, source, typing.interface, eager)


def _capturable(ops: Mapping[str, Op]) -> set[str]:
    return {name for name, op in ops.items() if op.capture}


def compile_text(text: str, interface: Interface, name: str = "<text>") -> Compiled:
    """Compile an architecture's text for a task's interface. Raises: SpaceError."""
    return compile_space(parse(text, name), interface)
