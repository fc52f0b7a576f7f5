"""Exports run elsewhere with torch and safetensors alone, and nothing half-written is left."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from einspace.compile import Compiled, compile_text
from einspace.interface import Interface
from grammar.errors import ExportError
from ops.spec import image, scores
from registry.export import export
from registry.verify import verify

FACE = Interface({"x": image(1, 8, 8)}, scores(3))


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return compile_text("conv2d(dim=4, kernel=3) >> batch_norm >> relu >> head", FACE)


@pytest.fixture(scope="module")
def folder(compiled: Compiled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(compiled, None, tmp_path_factory.mktemp("export") / "out", facts={"a|b": "<x>"})


def test_the_folder_holds_what_its_card_says(folder: Path, compiled: Compiled) -> None:
    names = {p.name for p in folder.iterdir()}
    assert {"model.py", "weights.safetensors", "config.json", "README.md"} <= names
    assert (folder / "model.py").read_text() == compiled.source
    assert json.loads((folder / "config.json").read_text())["id"] == compiled.hash
    assert "<x>" not in (folder / "README.md").read_text()
    assert not list(folder.parent.glob(".out-*"))


def test_the_folder_runs_from_elsewhere_without_this_project(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from safetensors.torch import load_file; from model import Model;"
        "m = Model(); m.load_state_dict(load_file(sys.argv[1] + '/weights.safetensors'));"
        "s = load_file(sys.argv[1] + '/sample.safetensors');"
        "assert (m.eval()(s['input_0']) - s['output']).abs().max() < 1e-6;"
        "assert not {'einspace', 'ops', 'grammar', 'search'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-I", "-c", code, str(copy)], check=False)
    assert run.returncode == 0


def test_verify_reports_no_difference(folder: Path) -> None:
    found = verify(folder)
    assert found.ok
    assert found.max_abs_diff <= 1e-6
    assert found.imports == ("math", "torch", "triton")


def test_changed_weights_are_noticed(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    state = load_file(copy / "weights.safetensors")
    save_file({k: v + torch.ones_like(v) for k, v in state.items()}, copy / "weights.safetensors")
    assert not verify(copy).ok


def test_foreign_imports_are_refused_before_they_run(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    mark = tmp_path / "ran"
    with (copy / "model.py").open("a") as file:
        file.write(f"import os\nopen({str(mark)!r}, 'w').close()\n")
    with pytest.raises(ExportError, match="imports os"):
        verify(copy)
    assert not mark.exists()


def test_a_folder_in_use_is_kept(compiled: Compiled, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ExportError, match="not empty"):
        export(compiled, None, tmp_path, facts={})
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_wrong_weights_leave_nothing_behind(compiled: Compiled, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="not those of this architecture"):
        export(compiled, {"nonsense": torch.zeros(1)}, tmp_path / "out", facts={})
    assert list(tmp_path.iterdir()) == []


def test_something_else_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is not an export"):
        verify(tmp_path)
