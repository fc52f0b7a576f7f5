"""Load: the emitted source as a module; its `Model` is the architecture."""

import hashlib
import linecache
import types

from torch import nn


def load(source: str, name: str = "model") -> type[nn.Module]:
    """The class `Model` of an emitted file; tracebacks show its lines."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    filename = f"<{name} {digest}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    module = types.ModuleType(f"emitted_{digest}")
    exec(compile(source, filename, "exec"), module.__dict__)
    model = module.__dict__["Model"]
    assert isinstance(model, type)
    assert issubclass(model, nn.Module)
    return model
