"""What an export must not do: remove what is not its own, run what it did not write, mislead."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from einspace.compile import Compiled, compile_text
from einspace.interface import Interface
from grammar.errors import ExportError
from ops.spec import TensorType, scores, seq, vec
from registry import verify as verify_module
from registry.card import card
from registry.export import export
from registry.formats import sample_input
from registry.verify import imports_of, verify

FACE = Interface({"x": vec(6)}, scores(3))


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return compile_text("linear(dim=5) >> relu >> head", FACE)


def test_force_replaces_its_own_files_and_keeps_all_others(
    compiled: Compiled, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("a face")
    (tmp_path / "model.pt2").write_text("of an earlier export")
    (tmp_path / "README.md").write_text("of an earlier export")
    export(compiled, None, tmp_path, facts={}, force=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert (tmp_path / "photos" / "one.jpg").read_text() == "a face"
    assert compiled.hash in (tmp_path / "README.md").read_text()
    assert not (tmp_path / "model.pt2").exists()
    assert verify(tmp_path).ok
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}-*"))


def test_the_pt2_program_gives_the_same_outputs(compiled: Compiled, tmp_path: Path) -> None:
    folder = export(compiled, None, tmp_path / "out", facts={}, fmt="pt2")
    sample = load_file(folder / "sample.safetensors")
    program = torch.export.load(folder / "model.pt2").module()
    torch.testing.assert_close(program(sample["input_0"]), sample["output"])


def test_several_outputs_are_all_compared(tmp_path: Path) -> None:
    face = Interface({"x": vec(6)}, None)
    both = compile_text("outputs(a=linear(dim=2), b=linear(dim=4) >> relu)", face)
    folder = export(both, None, tmp_path / "out", facts={})
    sample = load_file(folder / "sample.safetensors")
    assert {k for k in sample if k.startswith("output")} == {"output", "output_1"}
    assert verify(folder).ok


def test_facts_stay_in_their_cell_and_out_of_the_code(compiled: Compiled, tmp_path: Path) -> None:
    evil = '"""\nimport os\n```\n| a | <script>x</script> [y](http://z) ../../up'
    folder = export(compiled, None, tmp_path / "out", facts={"study": evil})
    page = (folder / "README.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| study"))
    assert "<script>" not in page
    assert page.count("```") == 4
    assert row.replace("\\|", "").count("|") == 3
    assert (folder / "model.py").read_text() == compiled.source
    assert json.loads((folder / "config.json").read_text())["facts"]["study"] == evil
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_card_shows_the_architecture_as_it_is_written(compiled: Compiled) -> None:
    assert f"```\n{compiled.text}\n```" in card(compiled, {})
    assert ">>" in compiled.text


@pytest.mark.parametrize(
    "line",
    ["__import__('os')", "exec('import os')", "from . import x", "__builtins__['eval']('1')"],
)
def test_ways_around_the_import_check_are_found(line: str) -> None:
    assert set(imports_of(f"import torch\n{line}\n")) - {"torch"}


def test_what_cannot_be_read_is_a_fault_with_a_way_out(compiled: Compiled, tmp_path: Path) -> None:
    folder = export(compiled, None, tmp_path / "out", facts={})
    (folder / "weights.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(ExportError, match="does not run"):
        verify(folder)
    (folder / "model.py").write_bytes(b"\xff\xfe")
    with pytest.raises(ExportError, match="cannot be read") as caught:
        verify(folder)
    assert caught.value.hint


def test_a_model_that_never_ends_is_stopped(
    compiled: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export(compiled, None, tmp_path / "out", facts={})
    with (folder / "model.py").open("a") as file:
        file.write("while True:\n    pass\n")
    monkeypatch.setattr(verify_module, "SECONDS", 3)
    with pytest.raises(ExportError, match="did not finish in 3 s"):
        verify(folder)


def test_a_model_that_gives_nan_is_not_verified(compiled: Compiled, tmp_path: Path) -> None:
    nan = {k: torch.full_like(v, float("nan")) for k, v in _state(compiled).items()}
    with pytest.raises(ExportError, match="differs by nan"):
        export(compiled, nan, tmp_path / "out", facts={})
    assert not (tmp_path / "out").exists()


def _state(compiled: Compiled) -> dict[str, torch.Tensor]:
    from einspace.load import load

    return dict(load(compiled.source)().state_dict())


def test_sample_inputs_have_the_shape_of_their_type() -> None:
    items = TensorType("items", (4,), (seq(8, 16),))
    assert sample_input(items).shape == (2, 4, 8, 16)
    again = sample_input(items)
    torch.testing.assert_close(sample_input(items), again)
