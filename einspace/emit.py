"""Emit: a typed graph as one readable PyTorch file.

The file imports torch and math, and triton where it is installed and an op has kernels; it holds
each used op's source once, one class for each repeated block and one `Model`. Nothing of the user's
text reaches it but in the header's comment, a line at a time; values are written with `repr` after
their domain has accepted them.
"""

import re
import textwrap
from collections.abc import Mapping

from einspace.classtext import ClassLines
from einspace.cost import Totals
from einspace.graph import Graph
from einspace.repeats import parts
from einspace.writer import Writer
from ops.source import is_kernel, source_of
from ops.spec import Op

IMPORTS = """\
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
"""
TRITON = """
try:
    import triton
    import triton.language as tl
    import triton.tools.tensor_descriptor
except ImportError:  # the PyTorch references serve
    triton = None
"""
NO_TRITON = "\ntriton = None  # written where triton was not installed: PyTorch references only\n"


def _header(text: str, hash_: str, totals: Totals, graph: Graph) -> str:
    plain = re.sub(r"[^\x20-\x7e]", "?", text.replace("\n", " "))
    wrapped = textwrap.wrap(plain, 94, break_long_words=True, break_on_hyphens=False)
    inputs = ", ".join(f"{n.args['name']}: {n.type}" for n in graph.input_nodes)
    facts = f"{totals.params:,} parameters, {totals.flops:,} FLOPs forward for one sample"
    lines = ["An architecture as one file; it needs torch, and uses triton where it is there.", ""]
    lines += [f"    {line}" for line in wrapped]
    lines += ["", f"id {hash_}: {inputs} -> {graph.output_type}; {facts}.", "Not written by hand."]
    return "\n".join(f"# {line}".rstrip() for line in lines)


def _library(table: Mapping[str, Op], graph: Graph) -> tuple[str, list[str]]:
    """How triton is imported ("": not at all); the sources that the graph's ops need, each once.

    Classes and functions in the order of the ops, kernels last, under one guard.
    """
    kernels: dict[str, None] = {}
    others: dict[str, None] = {}
    for node in graph.nodes:
        op = table.get(node.op)
        if op is None or op.inline is not None:
            continue
        for thing in (*op.uses, op.module):
            (kernels if is_kernel(thing) else others)[source_of(thing)] = None
    sources = list(others)
    asked = any(re.search(r"\btriton\b", text) for text in sources)
    if kernels:
        sources.append("if triton is not None:\n\n" + textwrap.indent("\n".join(kernels), "    "))
    return (TRITON if kernels else NO_TRITON) if asked else "", sources


def emit(table: Mapping[str, Op], graph: Graph, text: str, hash_: str, totals: Totals) -> str:
    """The graph as the source of one file whose class `Model` is built without arguments."""
    emitter = Writer(table, graph)
    names = {(n.id, 0): str(n.args["name"]) for n in graph.input_nodes}
    for name in names.values():
        assert name.isidentifier(), name
    model = ClassLines("Model", tuple(names.values()))
    result = emitter.write(model, parts(graph), dict(names))
    body = emitter.text(model, result)
    triton, library = _library(table, graph)
    chunks = [_header(text, hash_, totals, graph), IMPORTS + triton]
    # What a reader came for stands first: names are looked up when the model is built.
    chunks += [f"\n{source}" for source in [body, *emitter.blocks, *library]]
    return "\n".join(chunks)
