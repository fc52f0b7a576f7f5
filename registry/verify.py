"""Verify: run an exported folder in a clean interpreter and compare its outputs.

`verify` runs the code in the folder. What the file imports is read from its syntax tree first; the
interpreter is `python -I`, which sees neither this project nor the user's environment variables.
"""

import ast
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from grammar.errors import ExportError

ALLOWED = ("math", "torch", "triton")
TOLERANCE = 1e-5
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
inputs = [sample[f"input_{i}"] for i in range(len(sample) - 1)]
with torch.no_grad():
    y = model(*inputs)
foreign = [m for m in ("grammar", "einspace", "ops", "search", "registry") if m in sys.modules]
same = y.shape == sample["output"].shape
worst = float((y - sample["output"]).abs().max()) if same else float("inf")
print(json.dumps({"worst": worst, "foreign": foreign}))
"""


@dataclass(frozen=True, slots=True)
class Verified:
    """`max_abs_diff` between the stored outputs and those of the clean interpreter."""

    ok: bool
    max_abs_diff: float
    imports: tuple[str, ...]


def imports_of(source: str) -> tuple[str, ...]:
    """Top-level packages that a file imports. Raises: ExportError when it is not Python."""
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ExportError(f"model.py is not Python: line {error.lineno}") from None
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return tuple(sorted(found))


def verify(folder: Path) -> Verified:
    """Load the folder as its README says, and compare. Raises: ExportError with the way out."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ExportError(
            f"{folder} is not an export: {', '.join(missing)} missing",
            hint="write one with: einspace export STUDY -o DIR",
        )
    imports = imports_of((folder / "model.py").read_text(encoding="utf-8"))
    foreign = [name for name in imports if name not in ALLOWED]
    if foreign:
        raise ExportError(
            f"model.py imports {', '.join(foreign)}; an export imports {', '.join(ALLOWED)} only",
            hint="it was not run; export again if you did not change it yourself",
        )
    run = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM, str(folder.resolve())],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if run.returncode != 0:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise ExportError(f"{folder} does not run: {last}", hint="export it again")
    found = json.loads(run.stdout.strip().splitlines()[-1])
    worst = float(found["worst"])
    return Verified(worst <= TOLERANCE and not found["foreign"], worst, imports)
