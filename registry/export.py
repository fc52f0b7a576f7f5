"""Export: an architecture and its weights as a folder that needs torch and safetensors only.

The folder is written beside its place, run in a clean interpreter, and moved there when its outputs
agree: a failed export leaves nothing half-written, and what was there before stays.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from einspace.compile import Compiled
from einspace.load import load
from einspace.render import svg_of
from grammar.errors import ExportError
from ops.spec import TensorType
from registry.card import card
from registry.verify import TOLERANCE, verify

BATCH = 2
FORMATS = ("folder", "pt2")


def check_out(out: Path, *, force: bool) -> None:
    """Raises: ExportError when the folder may not be written, before any work is done."""
    if out.exists() and not out.is_dir():
        raise ExportError(f"{out} is a file", hint="give the path of a folder")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise ExportError(f"{out} is not empty", hint="give another folder, or --force")
    parent = next(p for p in out.resolve().parents if p.exists())
    if not parent.is_dir():
        raise ExportError(f"{out} cannot be made: {parent} is no folder")


def load_weights(path: Path) -> dict[str, Tensor]:
    """A state from safetensors. Raises: ExportError when it is missing."""
    if not path.is_file():
        raise ExportError(f"there are no trained weights at {path}", hint="run the search again")
    return load_file(path)


def sample_input(kind: TensorType, seed: int = 0) -> Tensor:
    """Data of a type, two samples."""
    generator = torch.Generator().manual_seed(seed)
    if kind.kind == "tokens":
        return torch.randint(0, kind.vocab or 2, (BATCH, *kind.shape), generator=generator)
    return torch.randn(BATCH, *kind.shape, generator=generator)


def export(
    compiled: Compiled,
    state: Mapping[str, Tensor] | None,
    out: Path,
    *,
    facts: Mapping[str, str],
    force: bool = False,
    fmt: str = "folder",
) -> Path:
    """Write and verify the folder `out`. Without `state` the weights are seeded and untrained.

    Raises: ExportError.
    """
    if fmt not in FORMATS:
        raise ExportError(f"the format {fmt!r} is not there", hint=f"use {' or '.join(FORMATS)}")
    check_out(out, force=force)
    out = out.resolve()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error.strerror}") from None
    try:
        _write(compiled, state, work, facts, fmt)
        found = verify(work)
        if not found.ok:
            raise ExportError(
                f"the exported model differs by {found.max_abs_diff:g} from the trained one, "
                f"more than {TOLERANCE:g}",
                hint="nothing was written",
            )
        if out.exists():
            shutil.rmtree(out)
        work.chmod(0o755)
        work.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out


def _write(
    compiled: Compiled,
    state: Mapping[str, Tensor] | None,
    folder: Path,
    facts: Mapping[str, str],
    fmt: str,
) -> None:
    torch.manual_seed(0)
    model = load(compiled.source)()
    if state is not None:
        model.load_state_dict(dict(state), strict=True)
    model.eval()
    kinds = compiled.interface.inputs
    inputs = [sample_input(kind) for kind in kinds.values()]
    with torch.no_grad():
        output = model(*inputs)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "weights.safetensors"
    )
    sample = {f"input_{i}": x for i, x in enumerate(inputs)}
    save_file({**sample, "output": output.contiguous()}, folder / "sample.safetensors")
    config = {
        "architecture": compiled.text,
        "id": compiled.hash,
        "inputs": {name: str(kind) for name, kind in kinds.items()},
        "output": compiled.output,
        "params": compiled.params,
        "flops": compiled.flops,
        "facts": dict(facts),
    }
    (folder / "model.py").write_text(compiled.source, encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(compiled, facts), encoding="utf-8")
    (folder / "requirements.txt").write_text("torch>=2.11\nsafetensors>=0.6\n", encoding="utf-8")
    (folder / "graph.svg").write_text(svg_of(compiled.graph), encoding="utf-8")
    if fmt == "pt2":
        program = torch.export.export(model, tuple(inputs))
        torch.export.save(program, folder / "model.pt2")
