"""The text of one emitted class: constructor, forward, and `forward_aux`, `update`, `step` at need.

A `ClassLines` holds the lines that `einspace.emit` gathered for it; nothing here looks at a graph's
edges.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from einspace.graph import GraphNode

VALUE_TYPES = (int, float, bool, str, type(None))


def written(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(written, value))}{',' if len(value) == 1 else ''})"
    assert isinstance(value, VALUE_TYPES), f"{type(value)} cannot be written into source"
    return repr(value)


@cache
def _defaults(module: type) -> Mapping[str, object]:
    return {k: p.default for k, p in inspect.signature(module).parameters.items()}


def is_default(module: type, name: str, value: object) -> bool:
    """Whether the constructor takes this very value by itself."""
    known = _defaults(module).get(name, inspect.Parameter.empty)
    return type(known) is type(value) and known == value


@dataclass(slots=True)
class ClassLines:
    """One class being written: its parts, and how its lines name things.

    `carries`: a block that is handed a sum as two parts, the second None for the first block, and
    hands its own on.
    """

    name: str
    inputs: tuple[str, ...]
    carries: bool = False
    init: list[str] = field(default_factory=list)
    forward: list[str] = field(default_factory=list)
    step: list[str] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    updates: list[tuple[str, int]] = field(default_factory=list)
    extras: bool = False
    mask: bool = False
    masks: set[str] = field(default_factory=set)


def class_text(cls: ClassLines, result: str, inputs: Sequence[GraphNode], decodes: bool) -> str:
    """The class as source; `inputs` are the model's, whose padding becomes its masks."""
    lines = [f"class {cls.name}(nn.Module):", "    def __init__(self) -> None:"]
    lines += ["        super().__init__()", *(f"        {s}" for s in cls.init), ""]
    heads = [f"{n}: Tensor" for n in cls.inputs]
    heads += ["y: Tensor | None"] * cls.carries
    if cls.mask and cls.name != "Model":
        heads.append("mask: Tensor")
    head, names = ", ".join(heads), ", ".join(h.split(":")[0] for h in heads)
    several = "," in result
    y_type = "tuple[Tensor, ...]" if several else "Tensor"
    body = [*_mask_lines(cls, inputs), *cls.forward]
    model = cls.name == "Model"
    if cls.extras:
        if model:
            lines += [f"    def forward(self, {head}) -> {y_type}:"]
            lines += [f"        return self.forward_aux({names})[0]", ""]
        lines += [f"    def forward_aux(self, {head}) -> tuple[{y_type}, Tensor, list]:"]
        lines += [f"        aux, stats = {_zero(cls)}, []"]
        lines += [f"        {s}" for s in body]
        lines += [f"        return {f'({result})' if several else result}, aux, stats", ""]
        lines += ["    def update(self, stats: list) -> None:"]
        lines += _update_lines(cls)
    else:
        lines += [f"    def forward(self, {head}) -> {y_type}:"]
        lines += [f"        {s}" for s in body] + [f"        return {result}", ""]
        if model:
            lines += [f"    def forward_aux(self, {head}) -> tuple[{y_type}, float, list]:"]
            lines += [f"        return self.forward({names}), 0.0, []", ""]
            lines += ["    def update(self, stats: list) -> None:"]
            lines += ['        """No op of this model keeps running statistics."""', ""]
    if decodes:
        lines += _decode_lines(cls, result)
    return "\n".join(lines).rstrip() + "\n"


def _zero(cls: ClassLines) -> str:
    return f"{cls.inputs[0]}.new_zeros((), dtype=torch.float32)"


def _mask_lines(cls: ClassLines, inputs: Sequence[GraphNode]) -> list[str]:
    if cls.name != "Model":
        return []
    padded = [n for n in inputs if n.type.may_pad]
    lines = []
    for node in padded:
        name = str(node.args["name"])
        if name in cls.masks:
            mask = f"mask_{name}" if len(padded) > 1 else "mask"
            test = f"{name} != 0" if node.type.kind == "tokens" else f"{name}.ne(0).any(-1)"
            lines.append(f"{mask} = {test}")
    return lines


def _update_lines(cls: ClassLines) -> list[str]:
    if not cls.updates:
        return ['        """No op of this model keeps running statistics."""', ""]
    uses: dict[str, list[int]] = {}
    lines, at = [], 0
    for owner, count in cls.updates:
        if count > 1:
            lines.append(f"        for block, found in zip({owner}, stats[{at}:{at + count}]):")
            lines.append("            block.update(found)")
        else:
            uses.setdefault(owner, []).append(at)
        at += count
    for owner, places in uses.items():
        if len(places) == 1:
            lines.append(f"        {owner}.update(stats[{places[0]}])")
        else:  # one module used several times: its statistics are averaged first
            found = ", ".join(f"stats[{i}]" for i in places)
            lines.append(f"        found = zip({found})")
            lines.append(f"        {owner}.update(tuple(torch.stack(s).mean(0) for s in found))")
    return [*lines, ""]


def _decode_lines(cls: ClassLines, result: str) -> list[str]:
    states = ", ".join(cls.states)
    after = ", ".join(f"s{i}" for i in range(len(cls.states)))
    given = f"{cls.inputs[0]}: Tensor" + ", y: Tensor | None" * cls.carries
    y_type = "Tensor, Tensor" if cls.carries else "Tensor"
    return [
        "    def init_state(self, batch: int, length: int) -> list:",
        f"        return [{states}]",
        "",
        f"    def step(self, {given}, state: list) -> tuple[{y_type}, list]:",
        *(f"        {s}" for s in cls.step),
        f"        return {result}, [{after}]",
        "",
    ]
