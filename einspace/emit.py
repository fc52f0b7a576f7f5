"""Emit: a typed graph as one readable PyTorch file.

The file imports torch and math, and triton where it is installed and an op has kernels; it holds
each used op's source once, one class for each repeated block and one `Model`. Nothing of the user's
text reaches it but in the header's comment, a line at a time; values are written with `repr` after
their domain has accepted them.
"""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from einspace.classtext import ClassLines, class_text, is_default, written
from einspace.cost import Totals
from einspace.graph import Graph, GraphNode
from einspace.repeats import Loop, Part, nodes_of, parts
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
except ImportError:  # the PyTorch references serve
    triton = None
"""
NO_TRITON = "\ntriton = None  # written where triton was not installed: PyTorch references only\n"
NAMES = ("x", "y", "z", "u", "v", "w", "p", "q", "r", "s")


class _Emitter:
    def __init__(self, table: Mapping[str, Op], graph: Graph) -> None:
        self.table, self.graph = table, graph
        self.nodes = graph.by_id()
        self.classes: dict[object, ClassLines] = {}
        self.blocks: list[str] = []
        self.decodes = _decodes(table, graph)

    # -- names -------------------------------------------------------------------------------

    @staticmethod
    def _attribute(made: dict[str, str], used: set[str], op: str, module: str) -> str:
        if module not in made:
            name, n = op, 2
            while name in used:
                name, n = f"{op}_{n}", n + 1
            used.add(name)
            made[module] = name
        return made[module]

    def _masked(self, node: GraphNode) -> bool:
        if node.op not in self.table or self.table[node.op].mask not in ("use", "end"):
            return False
        source, port = node.inputs[0]
        return self.nodes[source].types[port].may_pad

    def _mask_name(self, cls: ClassLines, ref: tuple[int, int]) -> str:
        """The mask of a value: that of the model input whose padding it carries."""
        cls.mask = True
        if cls.name != "Model":
            return "mask"
        node = self.nodes[ref[0]]
        while node.op != "input":
            node = next(self.nodes[i] for i, p in node.inputs if self.nodes[i].types[p].may_pad)
        name = str(node.args["name"])
        cls.masks.add(name)
        several = sum(n.type.may_pad for n in self.graph.input_nodes) > 1
        return f"mask_{name}" if several else "mask"

    def _mask_words(self, cls: ClassLines, node: GraphNode) -> list[str]:
        """The keyword arguments that hand masks to a node's module."""
        words = []
        declared = {i.name: i for i in self.table[node.op].inputs}
        plain = len(node.inputs) - len(node.roles)
        for role, ref in zip(node.roles, node.inputs[plain:], strict=True):
            if declared[role].masked and self.nodes[ref[0]].types[ref[1]].may_pad:
                words.append(f"{role}_mask={self._mask_name(cls, ref)}")
        if self.table[node.op].variadic:
            words += self._mask_tuple(cls, node)
        elif self._masked(node):
            words.append(f"mask={self._mask_name(cls, node.inputs[0])}")
        return words

    def _mask_tuple(self, cls: ClassLines, node: GraphNode) -> list[str]:
        """`mask=(a, None)`: what a variadic op is told of each value's padding."""
        padded = [self.nodes[i].types[port].may_pad for i, port in node.inputs]
        if self.table[node.op].mask not in ("use", "end") or not any(padded):
            return []
        names = [
            self._mask_name(cls, ref) if pads else "None"
            for ref, pads in zip(node.inputs, padded, strict=True)
        ]
        return [f"mask=({', '.join(names)},)"]

    # -- a class -----------------------------------------------------------------------------

    def write(self, cls: ClassLines, body: Sequence[Part], env: dict[tuple[int, int], str]) -> str:
        """Fill the class's lines; returns the expression of its output value."""
        inner = nodes_of(body)
        mine = {n.id for n in inner}
        last: dict[tuple[int, int], int] = {}
        order = self._events(body)
        for i, event in enumerate(order):
            for ref in self._reads(event):
                last[ref] = i
        for ref in self.graph.output:
            last[ref] = len(order)
        if inner and cls.name != "Model":
            last[(inner[-1].id, 0)] = len(order)
        attributes: dict[str, str] = {}
        used: set[str] = set()
        for i, event in enumerate(order):
            dying = {r for r in env if last.get(r, -1) <= i}
            if isinstance(event, Loop):
                self._loop(cls, event, env, used, dying)
            else:
                self._node(cls, event, env, attributes, used, dying)
            for ref in dying:
                env.pop(ref, None)
        assert all(n in mine for n in mine)
        return ", ".join(env[r] for r in self.graph.output if r in env) or env[(inner[-1].id, 0)]

    @staticmethod
    def _events(body: Sequence[Part]) -> list["GraphNode | Loop"]:
        found: list[GraphNode | Loop] = []
        for part in body:
            if isinstance(part, Loop):
                found.append(part)
            else:
                found.extend(part.nodes)
        return found

    @staticmethod
    def _reads(event: "GraphNode | Loop") -> list[tuple[int, int]]:
        if isinstance(event, Loop):
            return [nodes_of(event.copies[0])[0].inputs[0]]
        return list(event.inputs)

    @staticmethod
    def _fresh(env: Mapping[tuple[int, int], str], dying: Iterable[tuple[int, int]]) -> str:
        busy = {v for r, v in env.items() if r not in set(dying)}
        names = (*NAMES, *(f"x{i}" for i in range(10_000)))
        return next(n for n in names if n not in busy)

    def _target(
        self,
        cls: ClassLines,
        first: str | None,
        env: Mapping[tuple[int, int], str],
        dying: set[tuple[int, int]],
    ) -> str:
        """The dying first input's name when it is not the model's own input, else a free name."""
        kept = {v for r, v in env.items() if r not in dying}
        reusable = first not in (None, *kept) and (cls.name != "Model" or first in NAMES)
        return str(first) if reusable else self._fresh(env, dying)

    def _node(
        self,
        cls: ClassLines,
        node: GraphNode,
        env: dict[tuple[int, int], str],
        attributes: dict[str, str],
        used: set[str],
        dying: set[tuple[int, int]],
    ) -> None:
        args = [env[r] for r in node.inputs]
        first = self._target(cls, args[0] if args else None, env, dying)
        note = f"  # {node.type}"
        outs = [first]
        if len(node.types) > 1:
            taken = dict(env)
            for port in range(len(node.types)):
                name = self._fresh(taken, dying)
                taken[(node.id, port)] = name
                outs = [*outs, name] if port else [name]
        for port, name in enumerate(outs):
            env[(node.id, port)] = name
            dying.discard((node.id, port))
        op = self.table.get(node.op)
        if op is None or op.inline is not None:
            expression = self._inline(node, op, args)
            cls.forward.append(f"{first} = {expression}{note}")
            cls.step.append(f"{first} = {expression}")
            return
        new = node.module not in attributes
        name = self._attribute(attributes, used, node.op, node.module)
        if new:
            own = node.constructor.items()
            made = ", ".join(f"{k}={written(v)}" for k, v in own if not is_default(op.module, k, v))
            cls.init.append(f"self.{name} = {op.module.__name__}({made})")
        plain = len(args) - len(node.roles)
        call = args[:plain] + self._further(op, node.roles, args[plain:])
        words = self._mask_words(cls, node)
        left = ", ".join(outs)
        extra = [r for r in op.returns if r in ("aux", "stats")]
        every = bool(op.signature.exports) and len(outs) > 1
        method = ".alone" if op.signature.exports and not every else ""
        if extra:
            cls.extras = True
            left = ", ".join([left, *(f"{r}_{name}" for r in extra)])
        given = ", ".join([*call, *words])
        cls.forward.append(f"{left} = self.{name}{method}({given}){note}")
        if "aux" in extra:
            cls.forward.append(f"aux = aux + aux_{name}")
        if "stats" in extra:
            cls.forward.append(f"stats.append(stats_{name})")
            cls.updates.append((f"self.{name}", 1))
        if op.state:
            index = len(cls.states)
            cls.states.append(f"self.{name}.init_state(batch, length)")
            given = ", ".join([*call[:plain], f"state[{index}]", *call[plain:]])
            step = "step_all" if every else "step"
            cls.step.append(f"{', '.join(outs)}, s{index} = self.{name}.{step}({given})")
        else:
            left = ", ".join([*outs, *("_" for _ in extra)])
            cls.step.append(f"{left} = self.{name}{method}({', '.join(call)})")

    @staticmethod
    def _further(op: Op, roles: Sequence[str], args: Sequence[str]) -> list[str]:
        """The keyword arguments of declared inputs; one that takes many values gets a tuple."""
        words: list[str] = []
        for declared in op.inputs:
            mine = [a for r, a in zip(roles, args, strict=True) if r == declared.name]
            if mine:
                value = f"({', '.join(mine)},)" if declared.many else mine[0]
                words.append(f"{declared.name}={value}")
        return words

    @staticmethod
    def _inline(node: GraphNode, op: Op | None, args: Sequence[str]) -> str:
        if node.op == "fold":
            return f"{args[0]}.flatten(0, 1)"
        if node.op == "unfold":
            return f"{args[0]}.unflatten(0, (-1, {int(node.constructor['count'])}))"
        assert op is not None
        assert op.inline is not None
        return op.inline(args, node.args)

    def _loop(
        self,
        cls: ClassLines,
        loop: Loop,
        env: dict[tuple[int, int], str],
        used: set[str],
        dying: set[tuple[int, int]],
    ) -> None:
        block = self._block(loop)
        entry = nodes_of(loop.copies[0])[0].inputs[0]
        leave = nodes_of(loop.copies[-1])[-1]
        before = env[entry]
        name = self._target(cls, before, env, dying)
        env[(leave.id, 0)] = name
        dying.discard((leave.id, 0))
        attribute = self._attribute({}, used, "blocks", f"loop{leave.id}")
        count = len(loop.copies)
        cls.init.append(f"self.{attribute} = nn.ModuleList({block.name}() for _ in range({count}))")
        if before != name:
            cls.forward.append(f"{name} = {before}")
            cls.step.append(f"{name} = {before}")
        given = f"{name}, {self._mask_name(cls, entry)}" if block.mask else name
        kind = f"  # {leave.type}"
        cls.forward.append(f"for block in self.{attribute}:{kind}")
        if block.extras:
            cls.extras = True
            cls.forward.append(f"    {name}, more, found = block.forward_aux({given})")
            cls.forward.append("    aux = aux + more")
            cls.forward.append("    stats.append(found)")
            cls.updates.append((f"self.{attribute}", count))
        else:
            cls.forward.append(f"    {name} = block({given})")
        if self.decodes:
            index = len(cls.states)
            cls.states.append(f"[b.init_state(batch, length) for b in self.{attribute}]")
            cls.step.append(f"s{index} = []")
            cls.step.append(f"for block, before in zip(self.{attribute}, state[{index}]):")
            cls.step.append(f"    {name}, after = block.step({name}, before)")
            cls.step.append(f"    s{index}.append(after)")

    def _block(self, loop: Loop) -> ClassLines:
        key = tuple(_shape_key(p) for p in loop.copies[0])
        if key not in self.classes:
            number = len(self.classes) + 1
            cls = ClassLines("Block" if number == 1 else f"Block{number}", ("x",))
            self.classes[key] = cls
            entry = nodes_of(loop.copies[0])[0].inputs[0]
            result = self.write(cls, loop.copies[0], {entry: "x"})
            self.blocks.append(self.text(cls, result))
        return self.classes[key]

    def text(self, cls: ClassLines, result: str) -> str:
        """The class as source."""
        return class_text(cls, result, self.graph.input_nodes, self.decodes)


def _shape_key(part: Part) -> object:
    if isinstance(part, Loop):
        return (len(part.copies), *(_shape_key(p) for p in part.copies[0]))
    return part.key


def _decodes(table: Mapping[str, Op], graph: Graph) -> bool:
    """Whether `step` has a meaning: one causal token stream from end to end."""
    inputs = graph.input_nodes
    if len(inputs) != 1 or inputs[0].type.kind not in ("tokens", "seq") or inputs[0].type.may_pad:
        return False
    length = inputs[0].type.length
    for node in graph.nodes:
        if node.op == "input":
            continue
        if node.op not in table or not node.causal:
            return False
        if any(i.role != "stream" for i in table[node.op].inputs if i.name in node.roles):
            return False
        if any(t.kind not in ("tokens", "seq") or t.length != length for t in node.types):
            return False
    return True


def _header(text: str, hash_: str, totals: Totals, graph: Graph) -> str:
    plain = re.sub(r"[^\x20-\x7e]", "?", text.replace("\n", " "))
    wrapped = textwrap.wrap(plain, 94, break_long_words=True, break_on_hyphens=False)
    inputs = ", ".join(f"{n.args['name']}: {n.type}" for n in graph.input_nodes)
    facts = f"{totals.params:,} parameters, {totals.flops:,} FLOPs forward for one sample"
    lines = ["An architecture as one file; it needs torch, and uses triton where it is there.", ""]
    lines += [f"    {line}" for line in wrapped]
    lines += ["", f"id {hash_}: {inputs} -> {graph.output_type}; {facts}.", "Not written by hand."]
    return "\n".join(f"# {line}".rstrip() for line in lines)


def _library(table: Mapping[str, Op], graph: Graph) -> list[str]:
    """The sources that the graph's ops need, each once; kernels first, under one guard."""
    kernels: dict[str, None] = {}
    others: dict[str, None] = {}
    for node in graph.nodes:
        op = table.get(node.op)
        if op is None or op.inline is not None:
            continue
        for thing in (*op.uses, op.module):
            (kernels if is_kernel(thing) else others)[source_of(thing)] = None
    head = []
    if any(re.search(r"\btriton\b", text) for text in others):
        head = [TRITON if kernels else NO_TRITON]
    if kernels:
        head.append("\nif triton is not None:\n\n" + textwrap.indent("\n".join(kernels), "    "))
    return head + [f"\n{text}" for text in others]


def emit(table: Mapping[str, Op], graph: Graph, text: str, hash_: str, totals: Totals) -> str:
    """The graph as the source of one file whose class `Model` is built without arguments."""
    emitter = _Emitter(table, graph)
    names = {(n.id, 0): str(n.args["name"]) for n in graph.input_nodes}
    for name in names.values():
        assert name.isidentifier(), name
    model = ClassLines("Model", tuple(names.values()))
    result = emitter.write(model, parts(graph), dict(names))
    body = emitter.text(model, result)
    chunks = [_header(text, hash_, totals, graph), IMPORTS]
    chunks += [*_library(table, graph), *(f"\n{source}" for source in [*emitter.blocks, body])]
    return "\n".join(chunks)
