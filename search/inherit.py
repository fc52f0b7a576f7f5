"""Weight inheritance: what a trial leaves for its children, and how a child starts from it.

Files hold `<number of the module>.<name of the tensor>`, modules counted in the order of the graph;
which module is which, and how long a file is kept, says `search/kinship.py`. The state of the
optimiser is not handed down.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

Pairs = Sequence[Sequence[int]]  # (module of the child, module of the parent)


def modules(model: nn.Module) -> Iterator[nn.Module]:
    """The op modules of an emitted model in the order of the graph: blocks stand in lists."""
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            for block in child:
                yield from modules(block)
        else:
            yield child


def leave(model: nn.Module, path: str) -> None:
    """Write the weights for later children; a file appears whole or not at all."""
    tensors = {
        f"{number}.{name}": tensor.detach().contiguous().cpu()
        for number, module in enumerate(modules(model))
        for name, tensor in module.state_dict().items()
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    unfinished = f"{path}.{os.getpid()}"
    save_file(tensors, unfinished)
    os.replace(unfinished, path)


def take(model: nn.Module, path: str, matched: Pairs) -> tuple[int, str]:
    """Put the parent's weights in place; the number of parameters inherited, and any fault."""
    try:
        tensors = load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        return 0, f"nothing inherited, {Path(path).name} cannot be read: {str(error)[:200]}"
    own, count = list(modules(model)), 0
    for mine, other in matched:
        prefix = f"{other}."
        state = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        own[mine].load_state_dict(state)
        count += sum(p.numel() for p in own[mine].parameters())
    return count, ""
