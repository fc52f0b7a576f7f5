"""Verify: run an exported folder in a clean interpreter and compare its outputs.

`verify` runs the code in the folder. What the file imports is read from its syntax tree first, and
a file that could import behind our back (`__import__`, `exec`, `eval`) is not run: a guard against
accidents, not against an author who means harm. The interpreter is `python -I`: nothing of this
project is on its path. Outputs agree when they differ by at most `TOLERANCE` of the largest (or 1).
"""

import ast
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from grammar.errors import ExportError

ALLOWED = ("math", "torch", "triton")
HIDDEN = frozenset({"__import__", "__builtins__", "exec", "eval", "globals", "importlib"})
TOLERANCE = 1e-5
SECONDS = 600
FILES = ("model.py", "weights.safetensors", "config.json", "sample.safetensors")
PROGRAM = """
import importlib.util, json, sys
folder = sys.argv[1]
import torch
from safetensors.torch import load_file
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("exported_model", folder + "/model.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
model = module.Model()
model.load_state_dict(load_file(folder + "/weights.safetensors"), strict=True)
model.eval()
sample = load_file(folder + "/sample.safetensors")
inputs = [sample[k] for k in sorted(sample, key=lambda k: (len(k), k)) if k.startswith("input")]
wanted = [sample[k] for k in sorted(sample, key=lambda k: (len(k), k)) if k.startswith("output")]
with torch.no_grad():
    y = model(*inputs)
found = [y] if isinstance(y, torch.Tensor) else list(y)
foreign = [m for m in ("grammar", "einspace", "ops", "search", "registry") if m in sys.modules]
worst = 0.0 if [x.shape for x in found] == [x.shape for x in wanted] else float("inf")
if not worst:
    gaps = [float((a - b).abs().max()) for a, b in zip(found, wanted)]
    worst = next((g for g in gaps if g != g), max(gaps))
scale = max([1.0, *(float(x.abs().max()) for x in wanted)])
print(json.dumps({"worst": worst, "scale": scale, "foreign": foreign}))
"""


@dataclass(frozen=True, slots=True)
class Verified:
    """`max_abs_diff` between the stored outputs and those of the clean interpreter."""

    ok: bool
    max_abs_diff: float
    imports: tuple[str, ...]


def imports_of(source: str) -> tuple[str, ...]:
    """Top-level packages that a file imports, and the `HIDDEN` names that it uses.

    Raises: ExportError when it is not Python.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ExportError(f"model.py is not Python: {error}", hint="export it again") from None
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add("." if node.level else (node.module or "").split(".")[0])
        elif isinstance(node, ast.Name) and node.id in HIDDEN:
            found.add(node.id)
    return tuple(sorted(found))


def verify(folder: Path) -> Verified:
    """Load the folder as its README says, and compare. Raises: ExportError with the way out."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ExportError(
            f"{folder} is not an export: {', '.join(missing)} missing",
            hint="write one with: einspace export STUDY -o DIR",
        )
    try:
        source = (folder / "model.py").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"model.py cannot be read: {error}", hint="export it again") from None
    imports = imports_of(source)
    foreign = [name for name in imports if name not in ALLOWED]
    if foreign:
        raise ExportError(
            f"model.py imports {', '.join(foreign)}; an export imports {', '.join(ALLOWED)} only",
            hint="it was not run; export again if you did not change it yourself",
        )
    try:
        run = subprocess.run(
            [sys.executable, "-I", "-B", "-c", PROGRAM, str(folder.resolve())],
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ExportError(
            f"{folder} did not finish in {SECONDS} s", hint="export it again"
        ) from None
    if run.returncode != 0:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise ExportError(f"{folder} does not run: {last[:500]}", hint="export it again")
    found = json.loads(run.stdout.strip().splitlines()[-1])
    worst = float(found["worst"])
    close = worst <= TOLERANCE * float(found["scale"])
    return Verified(close and not found["foreign"], worst, imports)
