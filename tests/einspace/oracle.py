"""The oracle: a graph interpreted node by node with the model's own op modules.

Emitted code must compute the same. Modules are matched by the order of their first use.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from einspace.compile import Compiled
from einspace.load import load
from ops import table
from ops.spec import TensorType


def op_modules(model: nn.Module, names: set[str]) -> Iterator[nn.Module]:
    """The op modules of an emitted model, in order, without looking inside them."""
    for child in model.children():
        if type(child).__name__ in names:
            yield child
        else:
            yield from op_modules(child, names)


def random_input(kind: TensorType, batch: int = 2, seed: int = 0) -> Tensor:
    """Data of a type."""
    generator = torch.Generator().manual_seed(seed)
    if kind.kind == "tokens":
        return torch.randint(1, kind.vocab or 2, (batch, *kind.shape), generator=generator)
    return torch.randn(batch, *kind.shape, generator=generator)


def interpret(compiled: Compiled, model: nn.Module, inputs: list[Tensor]) -> Tensor:
    """The graph's value, op by op."""
    rows, graph = table(), compiled.graph
    names = {op.module.__name__ for op in rows.values() if op.inline is None}
    firsts = [n for n in graph.modules() if n.op in rows and rows[n.op].inline is None]
    owned = list(op_modules(model, names))
    assert len(owned) == len(firsts)
    modules = {n.module: m for n, m in zip(firsts, owned, strict=True)}
    masks: dict[str, Tensor] = {}
    carried: dict[tuple[int, int], str] = {}
    values: dict[tuple[int, int], Tensor] = {}
    for node, x in zip(graph.input_nodes, inputs, strict=True):
        values[(node.id, 0)] = x
        if node.type.may_pad:
            name = carried[(node.id, 0)] = str(node.args["name"])
            masks[name] = x != 0 if node.type.kind == "tokens" else x.ne(0).any(-1)
    for node in graph.nodes:
        if node.op == "input":
            continue
        op = rows[node.op]
        args = [values[ref] for ref in node.inputs]
        module = modules.get(node.module) or op.module(**node.constructor)
        plain = len(args) - len(node.roles)
        extra = dict(zip(node.roles, args[plain:], strict=True))
        for declared in op.inputs:
            if declared.many and declared.name in extra:
                pairs = zip(node.roles, args[plain:], strict=True)
                extra[declared.name] = tuple(a for r, a in pairs if r == declared.name)
        for port, kind in enumerate(node.types):
            if kind.may_pad:
                carried[(node.id, port)] = next(carried[r] for r in node.inputs if r in carried)
        if op.variadic and op.mask in ("use", "end"):
            if any(ref in carried for ref in node.inputs):
                extra["mask"] = tuple(
                    masks[carried[r]] if r in carried else None for r in node.inputs
                )
        elif op.mask in ("use", "end") and node.inputs[0] in carried:
            extra["mask"] = masks[carried[node.inputs[0]]]
        for declared in op.inputs:
            if declared.masked and declared.name in node.roles:
                ref = node.inputs[plain + node.roles.index(declared.name)]
                if ref in carried:
                    extra[f"{declared.name}_mask"] = masks[carried[ref]]
        out = module(*args[:plain], **extra)
        named = zip(op.returns, out if len(op.returns) > 1 else (out,), strict=True)
        kept = [v for name, v in named if name not in ("aux", "stats")]
        several = len(kept) == 1 and isinstance(kept[0], tuple | list)
        for index, value in enumerate(kept[0] if several else kept):
            values[(node.id, index)] = value
    return values[graph.output[0]]


def built(compiled: Compiled, seed: int = 0) -> nn.Module:
    """The emitted model with seeded weights, in eval mode."""
    torch.manual_seed(seed)
    return load(compiled.source)().eval()
