"""A user's ops: found in files and packages, refused with one error where they cannot be used."""

import os
import re
from importlib import metadata
from pathlib import Path

import pytest
import torch

import ops
from einspace import optable
from einspace.compile import compile_text
from einspace.interface import Interface
from einspace.load import load
from einspace.opcheck import findings, wanted
from einspace.opfiles import VARIABLE, enable, given
from einspace.optable import blamed, book, families, table
from grammar.errors import OpError
from ops.spec import seq
from registry.export import export

DOCS = Path(__file__).resolve().parents[2] / "docs" / "own-ops.md"
CODE = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[0]


@pytest.fixture(autouse=True)
def _no_ops_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")


def _file(folder: Path, text: str = CODE, name: str = "my_ops.py") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_op_of_the_docs_is_a_word_once_its_file_is_named(tmp_path: Path) -> None:
    assert "smooth" not in table()
    enable([_file(tmp_path)])
    assert set(table()) == {*ops.table(), "smooth"}
    assert families()["smooth"] == "user"
    face = Interface({"x": seq(8, 6)})
    found = compile_text("residual(smooth(rate=0.5)) * 2", face)
    assert "class Smooth(nn.Module):" in found.source
    assert found.source.count("def smoothed(") == 1
    assert "einspace" not in found.source.replace("# ", "")
    assert load(found.source)()(torch.randn(2, 8, 6)).shape == (2, 8, 6)
    assert [p.name for p in tmp_path.iterdir()] == ["my_ops.py"]  # No cache was written.


def test_the_op_of_the_docs_keeps_the_contract(tmp_path: Path) -> None:
    found = list(findings(wanted(_file(tmp_path))))
    assert [one for one in found if one.breach] == []
    assert {one.check for one in found} >= {"steps", "flops", "pure_source", "emitted_file"}
    assert "seq[9,6]" in {one.case for one in found}


def test_the_source_that_was_run_is_the_one_that_is_exported(tmp_path: Path) -> None:
    path = _file(tmp_path)
    enable([path])
    table()
    Path(path).write_text(CODE.replace("rate * h", "0 * h"), encoding="utf-8")
    source = compile_text("smooth", Interface({"x": seq(8, 6)})).source
    assert "h = rate * h" in source


BROKEN = {
    "OP = (\n": r"SyntaxError: .*line 1",
    "x = 1\n": "neither OP nor OPS",
    "OP = 3\n": "no ops.spec.Op",
    "a = 1\nb = a / 0\n": r"ZeroDivisionError.*\(line 2\)",
    "import no_such_module_here\n": "No module named",
    "import sys\nsys.exit(3)\n": "SystemExit",
    CODE.replace('"smooth"', '"relu"'): "there is an op 'relu' already, of einspace",
    CODE.replace('"smooth"', '"residual"'): "a word of the language",
    CODE.replace('"smooth"', '"none"'): "a word of the language",
    CODE.replace('"smooth"', '"my op"'): "is named 'my op'",
    CODE.replace("Smooth", "GatedDeltaNet"): "GatedDeltaNet of .* are two things",
    CODE.replace("uses=(smoothed,),", ""): "Smooth of 'smooth' takes smoothed from its file",
    CODE.replace("Float(0.0, 1.0, default=0.9)", "0.9"): "rate of 'smooth' is 0.9",
    CODE.replace("module=Smooth", "module=smoothed"): "has the module <function",
    CODE.replace("CASES = [", "CASES = [1, "): "CASES are not cases",
}


@pytest.mark.parametrize(("text", "fault"), BROKEN.items(), ids=BROKEN.values())
def test_a_broken_file_is_one_error(tmp_path: Path, text: str, fault: str) -> None:
    enable([_file(tmp_path, text)])
    with pytest.raises(OpError, match=fault) as caught:
        table()
    assert caught.value.hint


def test_a_shape_rule_that_fails_is_one_error_with_its_line(tmp_path: Path) -> None:
    enable([_file(tmp_path, CODE.replace('need(x, "seq")', "x.no_such_thing"))])
    with pytest.raises(OpError, match=r"`shape` of 'smooth' fails: AttributeError.*\(line \d+\)"):
        compile_text("smooth", Interface({"x": seq(8, 6)}))


def test_a_file_that_changed_or_went_away_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path)
    enable([path])
    (ref,) = given()
    assert re.fullmatch(re.escape(path) + "#[0-9a-f]{16}", ref)
    Path(path).write_text(CODE + "\n", encoding="utf-8")
    with pytest.raises(OpError, match="has changed since"):
        table()
    Path(path).unlink()
    with pytest.raises(OpError, match="there is no file"):
        table()
    with pytest.raises(OpError, match="there is no file"):
        enable([path])


def test_the_same_content_elsewhere_is_the_same_file_and_two_files_may_not_clash(
    tmp_path: Path,
) -> None:
    first, copy = _file(tmp_path), _file(tmp_path, name="copy.py")
    enable([first])
    enable([copy])
    assert len(given()) == 1
    assert wanted(copy).where == first
    enable([_file(tmp_path, CODE + "\n", name="other.py")])
    with pytest.raises(OpError, match=r"other.py: there is an op 'smooth' already, of .*my_ops.py"):
        table()


def test_a_path_that_the_variable_could_not_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / f"a{os.pathsep}b"
    folder.mkdir()
    _file(folder)
    monkeypatch.chdir(folder)
    with pytest.raises(OpError, match="holds"):
        enable(["my_ops.py"])


def test_a_shipped_op_is_left_to_the_suite_that_has_its_cases() -> None:
    with pytest.raises(OpError, match="'moe' is shipped"):
        wanted("moe")
    with pytest.raises(OpError, match="there is no op 'mow'") as caught:
        wanted("mow")
    assert "moe" in caught.value.hint


def test_several_files_stand_in_the_variable(tmp_path: Path) -> None:
    second = CODE.replace("smooth", "even").replace("Smooth", "Even")
    names = [_file(tmp_path), _file(tmp_path, second, "even.py")]
    os.environ[VARIABLE] = os.pathsep.join(names)
    assert {"smooth", "even"} <= set(table())


BREACHES = {
    "parameters": CODE.replace("Cost(x.dim**2,", "Cost(x.dim,"),
    "flops": CODE.replace("2 * x.length", "x.length"),
    "state_bytes": CODE.replace("4 * x.dim)", "8 * x.dim)"),
    "steps": CODE.replace("self.rate * state +", "0.5 * self.rate * state +"),
    "types": CODE.replace("return x\n\n\nOP", "return x.with_dim(1)\n\n\nOP"),
    "mask": CODE.replace('mask="none"', 'mask="use"'),
}


@pytest.mark.parametrize("check", BREACHES)
def test_a_breach_is_found_and_named(tmp_path: Path, check: str) -> None:
    found = list(findings(wanted(_file(tmp_path, BREACHES[check]))))
    assert check in {one.check for one in found if one.breach}


def test_without_cases_some_are_made_up(tmp_path: Path) -> None:
    text = CODE[: CODE.index("CASES")]
    found = list(findings(wanted(_file(tmp_path, text))))
    assert {one.case for one in found} >= {"seq[7,12]", "seq[9,8]"}
    assert not [one for one in found if one.breach]


def test_an_installed_package_offers_ops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    def forget() -> None:
        optable.installed.cache_clear()
        optable._rows.cache_clear()

    package = tmp_path / "my_package_of_ops.py"
    package.write_text(CODE, encoding="utf-8")
    info = tmp_path / "my_package-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.2\n")
    points = info / "entry_points.txt"
    points.write_text("[einspace.ops]\nsmooth = my_package_of_ops:OP\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    request.addfinalizer(forget)
    forget()
    assert "smooth" in metadata.entry_points(group=optable.GROUP).names
    assert families()["smooth"] == "user"
    found = wanted("smooth")
    assert found.where == "my-package 1.2"
    assert len(found.cases["smooth"]) == 2
    for line, fault in {
        "other = my_package_of_ops:OP": "gives an op named 'smooth'",
        "smooth = no_such_package:OP": "of my-package 1.2 cannot be imported",
        "smooth = my_package_of_ops:CASES": "OP is no ops.spec.Op",
    }.items():
        points.write_text(f"[einspace.ops]\n{line}\n")
        forget()
        with pytest.raises(OpError, match=fault):
            table()


def test_what_fails_in_a_model_with_a_users_op_is_one_error(tmp_path: Path) -> None:
    text = CODE.replace("return self.out(smoothed(x, self.rate))", "return self.out(x) + 1 / 0")
    enable([_file(tmp_path, text)])
    compiled = compile_text("smooth", Interface({"x": seq(8, 6)}))
    with pytest.raises(OpError, match="the model with smooth does not run: ZeroDivisionError"):
        export(compiled, None, tmp_path / "out", facts={})
    assert not (tmp_path / "out").exists()
    with pytest.raises(ZeroDivisionError), blamed(["relu"]):  # ours keeps its traceback
        raise ZeroDivisionError


RUNS = """
with open({!r}, "a") as log:
    log.write("x")
"""


def test_a_file_is_run_once(tmp_path: Path) -> None:
    path = _file(tmp_path, CODE + RUNS.format(str(tmp_path / "runs")))
    enable([path])
    table()
    book(given()[0])
    table()
    assert (tmp_path / "runs").read_text() == "x"
