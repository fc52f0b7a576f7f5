"""Export: an architecture and its weights as a folder that needs torch and safetensors only.

The files are written beside their place, run in a clean interpreter, and moved there when their
outputs agree: a failed export leaves nothing half-written. Into a folder that holds something, the
files are moved one by one: whatever else lies there is never removed.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from einspace.compile import Compiled
from einspace.load import load
from einspace.optable import blamed
from einspace.render import svg_of
from grammar.errors import ExportError
from registry.card import card
from registry.formats import OPTIONAL, check_format, sample_input, verify_hf, write_format
from registry.verify import TOLERANCE, verify


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


def sample_of(inputs: Sequence[Tensor], y: Tensor | Sequence[Tensor]) -> dict[str, Tensor]:
    """`input_0 ...` and `output`, `output_1 ...`, as `sample.safetensors` holds them."""
    outputs = [y] if isinstance(y, Tensor) else list(y)
    named = {f"input_{i}": x for i, x in enumerate(inputs)}
    named |= {f"output_{i}" if i else "output": x for i, x in enumerate(outputs)}
    return {name: x.detach().clone().contiguous() for name, x in named.items()}


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

    Raises: ExportError; OpError where a user's op fails.
    """
    check_format(fmt)
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
        if fmt == "hf":
            verify_hf(work)
        _move(work, out)
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error.strerror}") from None
    except SafetensorError as error:  # what it makes of a full disk
        raise ExportError(f"{out} cannot be written: {error}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out


def _move(work: Path, out: Path) -> None:
    """Put the files in place. A folder that exists keeps what is not ours."""
    work.chmod(0o755)
    if not out.exists():
        work.rename(out)
        return
    for name in OPTIONAL:
        if not (work / name).exists():
            (out / name).unlink(missing_ok=True)
    for path in work.iterdir():
        path.replace(out / path.name)


def _write(
    compiled: Compiled,
    state: Mapping[str, Tensor] | None,
    folder: Path,
    facts: Mapping[str, str],
    fmt: str,
) -> None:
    ops = [node.op for node in compiled.graph.nodes]
    with blamed(ops), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = load(compiled.source)()
    if state is not None:
        _restore(model, state)
    model.eval()
    kinds = compiled.interface.inputs
    inputs = [sample_input(kind, seed) for seed, kind in enumerate(kinds.values())]
    with blamed(ops), torch.no_grad():
        sample = sample_of(inputs, model(*inputs))
    weights = {name: x.detach().contiguous() for name, x in model.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    save_file(sample, folder / "sample.safetensors")
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
    (folder / "README.md").write_text(card(compiled, facts, fmt), encoding="utf-8")
    (folder / "graph.svg").write_text(svg_of(compiled.graph), encoding="utf-8")
    needed = ("torch>=2.11", "safetensors>=0.6", *write_format(fmt, model, kinds, folder))
    (folder / "requirements.txt").write_text("\n".join(needed) + "\n", encoding="utf-8")


def _restore(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    try:
        model.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        last = str(error).splitlines()[-1].strip()
        raise ExportError(
            f"the weights are not those of this architecture: {last}",
            hint="train it again: einspace export STUDY -o DIR",
        ) from error
