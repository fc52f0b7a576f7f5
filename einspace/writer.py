"""Writer: the parts of a typed graph as the lines of classes, a line for each node.

Names are reused as values die; a held sum (`einspace.passes.join`) has no line of its own, and its
two parts live until the norm that makes it.
"""

from collections.abc import Iterable, Mapping, Sequence

from einspace.classtext import ClassLines, class_text, is_default, written
from einspace.graph import Graph, GraphNode
from einspace.passes.join import carried, joins, taken
from einspace.repeats import Loop, Part, nodes_of
from ops.spec import Op

LEFT, RIGHT = -1, -2  # the ports of the two parts of a held sum
NAMES = ("x", "y", "z", "u", "v", "w", "p", "q", "r", "s")


class Writer:
    """`classes` holds what has been written, `blocks` the text of the repeated ones."""

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
        last: dict[tuple[int, int], int] = {}
        order = self._events(body)
        held = taken(order, hands_on=cls.carries)
        for i, event in enumerate(order):
            for ref in self._reads(event):
                last[ref] = i
                for part in (LEFT, RIGHT):  # its first reader takes a held sum's parts
                    last.setdefault((ref[0], part), i)
        for ref in self.graph.output:
            last[ref] = len(order)
        if inner and cls.name != "Model":
            for port in (0, LEFT, RIGHT):
                last[(inner[-1].id, port)] = len(order)
        attributes: dict[str, str] = {}
        used: set[str] = set()
        for i, event in enumerate(order):
            dying = {r for r in env if last.get(r, -1) <= i}
            if isinstance(event, Loop):
                self._loop(cls, event, env, used, dying)
                self._settle(cls, event, env, held)
            elif event.id in held:
                for part, ref in zip((LEFT, RIGHT), event.inputs, strict=True):
                    env[(event.id, part)] = env[ref]
            else:
                self._node(cls, event, env, attributes, used, dying)
            for ref in dying:
                env.pop(ref, None)
        if cls.carries:
            return f"{env[(inner[-1].id, LEFT)]}, {env[(inner[-1].id, RIGHT)]}"
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
        if node.inputs and (node.inputs[0][0], LEFT) in env and joins(node):
            self._join(cls, node, env, attributes, used, dying)
            return
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
        name = self._module(cls, node, op, attributes, used)
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

    def _module(
        self,
        cls: ClassLines,
        node: GraphNode,
        op: Op,
        attributes: dict[str, str],
        used: set[str],
    ) -> str:
        """The attribute that holds a node's module; the constructor makes it once."""
        new = node.module not in attributes
        name = self._attribute(attributes, used, node.op, node.module)
        if new:
            own = node.constructor.items()
            made = ", ".join(f"{k}={written(v)}" for k, v in own if not is_default(op.module, k, v))
            cls.init.append(f"self.{name} = {op.module.__name__}({made})")
        return name

    def _join(
        self,
        cls: ClassLines,
        node: GraphNode,
        env: dict[tuple[int, int], str],
        attributes: dict[str, str],
        used: set[str],
        dying: set[tuple[int, int]],
    ) -> None:
        """A norm that makes the sum it reads: both come out, or the norm alone."""
        source = node.inputs[0][0]
        parts = [env[(source, LEFT)], env[(source, RIGHT)]]
        name = self._module(cls, node, self.table[node.op], attributes, used)
        call = f"self.{name}.joined({', '.join(parts)})"
        total = self._target(cls, parts[0], env, dying)
        env[(source, 0)] = total
        dying |= {(source, LEFT), (source, RIGHT)}
        y = self._target(cls, parts[1], env, dying)
        env[(node.id, 0)] = y
        line = f"{total}, {y} = {call}"
        cls.forward.append(f"{line}  # {node.type}")
        cls.step.append(line)

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
        name = self._enter(cls, block, env, entry, dying)
        if block.carries:
            for part, of in zip((LEFT, RIGHT), name.split(", "), strict=True):
                env[(leave.id, part)] = of
                dying.discard((leave.id, part))
        else:
            env[(leave.id, 0)] = name
            dying.discard((leave.id, 0))
        attribute = self._attribute({}, used, "blocks", f"loop{leave.id}")
        count = len(loop.copies)
        cls.init.append(f"self.{attribute} = nn.ModuleList({block.name}() for _ in range({count}))")
        given = f"{name}, {self._mask_name(cls, entry)}" if block.mask else name
        kind = f"  # {leave.type}"
        cls.forward.append(f"for block in self.{attribute}:{kind}")
        if block.extras:
            cls.extras = True
            both = f"({name})" if block.carries else name
            cls.forward.append(f"    {both}, more, found = block.forward_aux({given})")
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

    @staticmethod
    def _settle(
        cls: ClassLines, loop: Loop, env: dict[tuple[int, int], str], held: set[int]
    ) -> None:
        """After a loop that hands on a sum: the sum itself, where no norm takes it."""
        leave = nodes_of(loop.copies[-1])[-1].id
        if (leave, LEFT) in env and leave not in held:
            x, y = env.pop((leave, LEFT)), env.pop((leave, RIGHT))
            cls.forward.append(f"{x} = {x} + {y}")
            cls.step.append(f"{x} = {x} + {y}")
            env[(leave, 0)] = x

    def _enter(
        self,
        cls: ClassLines,
        block: ClassLines,
        env: dict[tuple[int, int], str],
        entry: tuple[int, int],
        dying: set[tuple[int, int]],
    ) -> str:
        """Write what a loop starts from into the names it goes on with; returns these."""
        if not block.carries:
            before = [env[entry]]
        elif (entry[0], LEFT) in env:
            before = [env[(entry[0], LEFT)], env[(entry[0], RIGHT)]]
        else:
            before = [env[entry], "None"]
        taken, names = dict(env), []
        for i, part in enumerate(before):
            names.append(self._target(cls, None if part == "None" else part, taken, dying))
            taken[(entry[0], -9 - i)] = names[-1]
        left = [n for n, b in zip(names, before, strict=True) if n != b]
        right = [b for n, b in zip(names, before, strict=True) if n != b]
        if left:
            line = f"{', '.join(left)} = {', '.join(right)}"
            cls.forward.append(line)
            cls.step.append(line)
        return ", ".join(names)

    def _block(self, loop: Loop) -> ClassLines:
        carries = carried(loop)
        key = (carries, *(_shape_key(p) for p in loop.copies[0]))
        if key not in self.classes:
            number = len(self.classes) + 1
            cls = ClassLines("Block" if number == 1 else f"Block{number}", ("x",), carries)
            self.classes[key] = cls
            entry = nodes_of(loop.copies[0])[0].inputs[0]
            env = {(entry[0], LEFT): "x", (entry[0], RIGHT): "y"} if carries else {entry: "x"}
            result = self.write(cls, loop.copies[0], env)
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
