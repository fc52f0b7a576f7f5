"""Bad input through the installed command: exit code 2, place, fact and way out, no traceback."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.search.small_search import ledger, use_runs

ROOT = Path(__file__).resolve().parent.parent
FLAT = ("--input", "seq[4,8]")
SPACE = "conv2d(dim=4|8, kernel=3) >> relu >> head"


def installed() -> list[str]:
    """The command beside this Python when the project is installed, else its entry as a script."""
    command = Path(sys.executable).with_name("einspace")
    return [str(command)] if command.is_file() else [sys.executable, str(ROOT / "cli.py")]


def run(*args: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    environment.setdefault("EINSPACE_RUNS", str(cwd / "runs"))
    return subprocess.run(
        [*installed(), *args],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=cwd,
        timeout=120,
    )


def told(found: subprocess.CompletedProcess[str], *words: str) -> None:
    """One clear error: exit code 2, every word on stderr, no traceback."""
    assert found.returncode == 2, found.stdout + found.stderr
    assert "Traceback" not in found.stderr + found.stdout
    for word in words:
        assert word in found.stderr, found.stderr


SYNTAX = {
    "relu >> >> relu": ("<text>:1:9:", "unexpected '>>'", "a part follows"),
    "relu >>": ("<text>:1:6:", "at the end", "a part must follow"),
    "net = relu\nb = gelu;": ("<text>:2:1:", "expected ';'", "ends with ';'"),
    "(relu": ("<text>:1:1:", "unclosed '('", "add ')'"),
    "relu)": ("<text>:1:5:", "closes nothing", "remove it"),
    "relu | | gelu": ("<text>:1:6:", "expected an alternative", "add a part"),
    "{}": ("<text>:1:2:", "empty choice", "at least one part"),
    "relu * 0": ("<text>:1:8:", "cannot be repeated 0 times", "a whole number from 1 on"),
    'relu >> "abc': ("<text>:1:9:", "does not end on its line", "close it"),
    "relu $ gelu": ("<text>:1:6:", "'$' means nothing here", "names are letters"),
    "relu as head": ("<text>:1:9:", "'head' is reserved", "reserved:"),
    "linear(dim=3..1)": ("<text>:1:12:", "runs backwards", "write 1..3"),
}
MEANING = {
    "liner(dim=8)": ("<text>:1:1:", "neither an op nor a rule", "did you mean linear"),
    "linear(dm=8)": ("<text>:1:8:", "no parameter 'dm'", "did you mean dim"),
    "linear(dim=0)": ("<text>:1:8:", "dim=0", "is not allowed", "a whole number from 1"),
    "linear(dim=8) + linear(dim=4)": ("<text>:1:1:", "seq[4,8] and seq[4,4]"),
    "softmax_attn(heads=3)": ("<text>:1:14:", "does not divide", "heads may be 1, 2, 4, 8"),
    "net = {0: relu | gelu};": ("<text>:1:8:", "not positive", "> 0"),
    "net = {-0.5: relu | gelu};": ("<text>:1:8:", "not positive", "> 0"),
    "net = {0.7: relu | 0.4: gelu | silu};": ("<text>:1:", "leave nothing", "less than 1"),
    "relu >> @e": ("<text>:1:9:", "not bound", "known: x"),
    "net = {0.9: net >> net | relu};": ("<text>:1:1:", "grows without end", "weight"),
    "net = relu >> net;": ("<text>:1:1:", "can never end", "alternative"),
}


@pytest.mark.parametrize("text", sorted({**SYNTAX, **MEANING}))
def test_a_wrong_text_is_told_place_fact_and_way_out(text: str, tmp_path: Path) -> None:
    words = {**SYNTAX, **MEANING}[text]
    told(run("check", text, *FLAT, cwd=tmp_path), *words, "^")


def test_a_graph_that_sees_later_tokens_is_refused_for_a_language_model(tmp_path: Path) -> None:
    text = "embed(dim=8) >> softmax_attn(heads=2) >> head"
    found = run("check", text, "--task", "shakespeare", cwd=tmp_path)
    told(found, "<text>:1:17:", "sees later tokens", "hint: add the flag causal")


def test_a_space_without_an_architecture_for_the_task_is_refused(tmp_path: Path) -> None:
    words = ("search", "embed(dim=8|16) >> conv2d(dim=4, kernel=3) >> head", "--task", "digits")
    told(run(*words, "--trials", "1", cwd=tmp_path), "<text>:1:1:", "image[1,8,8]")
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize("command", ["best", "status", "report", "repair", "worker"])
def test_an_unknown_study_is_refused_and_not_made(command: str, tmp_path: Path) -> None:
    told(run(command, "nope", cwd=tmp_path), "'nope'", "hint:")
    assert not list(tmp_path.rglob("nope*"))


@pytest.mark.parametrize("name", ["../../x", "a/b", "/tmp/x", ".", "a\nb", "\u0430bc", "x" * 300])
def test_a_study_cannot_be_named_by_a_path(name: str, tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    words = ("search", SPACE, "--task", "digits", "--trials", "1", "--study", name)
    told(run(*words, cwd=inner), "cannot name a study", "hint:")
    assert [p for p in tmp_path.rglob("*") if p not in (inner, inner.parent)] == []


def test_a_runs_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    words = ("search", SPACE, "--task", "digits", "--trials", "1", "--study", "s")
    found = run(*words, cwd=tmp_path, EINSPACE_RUNS=str(blocked / "runs"))
    told(found, str(blocked), "hint:")


def searched(tmp_path: Path) -> Path:
    """The journal of a finished study `s`."""
    words = ("search", SPACE, "--task", "digits", "--trials", "1", "--epochs", "1", "--study", "s")
    found = run(*words, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    (journal,) = [p for p in (tmp_path / "runs").rglob("*") if p.suffix in (".journal", ".log")]
    return journal


@pytest.mark.slow
def test_a_damaged_journal_is_told_and_a_torn_last_line_is_mended(tmp_path: Path) -> None:
    journal = searched(tmp_path)
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    journal.write_bytes(whole[:-7])
    torn = run("best", "s", cwd=tmp_path)
    assert torn.returncode in (0, 2), torn.stderr
    assert "Traceback" not in torn.stderr
    journal.write_bytes(b"".join([*lines[:2], b"\x00\xff not json\n", *lines[2:]]))
    told(run("best", "s", cwd=tmp_path), journal.name, "hint:")


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = run("ui", "--port", str(port), cwd=tmp_path)
    told(found, str(port), "in use", "--port")


# Data packages are found by their metadata alone: without it they are not installed.
HIDE = """
from importlib import metadata
real = metadata.distribution
def distribution(name):
    if name == "DISTRIBUTION":
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.distribution = distribution
"""


def test_a_missing_data_package_is_told_with_the_line_that_installs_it(tmp_path: Path) -> None:
    pins = (ROOT / "requirements-data.txt").read_text(encoding="utf-8").splitlines()
    names = [line.split("==")[0] for line in pins if "==" in line]
    source = (ROOT / "search" / "tasks" / "mnist5k.py").read_text(encoding="utf-8")
    (name,) = [n for n in names if f'"{n}"' in source]
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(HIDE.replace("DISTRIBUTION", name))
    words = ("train", SPACE.replace("4|8", "4"))
    path = os.pathsep.join([str(hidden), str(ROOT)])
    found = run(*words, "--task", "mnist5k", "--epochs", "1", cwd=tmp_path, PYTHONPATH=path)
    told(found, name, "pip install --no-deps -r requirements-data.txt")


DEVICES = {"cuda:900": "CUDA device", "quantum": "'quantum' is no device"}


@pytest.mark.parametrize("device", sorted(DEVICES))
def test_a_device_that_is_not_there_is_refused_before_a_worker_starts(
    device: str, tmp_path: Path
) -> None:
    words = ("search", SPACE, "--task", "digits", "--trials", "1", "--study", "s")
    told(run(*words, "--device", device, cwd=tmp_path), DEVICES[device], "hint: use")
    told(run("worker", "s", "--device", device, cwd=tmp_path), DEVICES[device], "hint: use")
    assert not list(tmp_path.rglob("s"))


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("mongodb://x", "'mongodb' is not a storage"),
        ("sqlite:///x.db", "'sqlite' is not a storage"),
        ("postgresql+nothing://x/y", "database"),
        ("", "is not a storage"),
    ],
)
def test_a_strange_storage_is_told(url: str, word: str, tmp_path: Path) -> None:
    told(run("best", "s", "--storage", url, cwd=tmp_path), word, "hint:")


def test_an_export_into_a_folder_in_use_or_a_format_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    told(run("export", "relu", "-o", "out", *FLAT, cwd=tmp_path), "not empty", "--force")
    found = run("export", "relu", "-o", "new", "--format", "zip", *FLAT, cwd=tmp_path)
    told(found, "'zip' is not there", "onnx")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_report_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_runs(monkeypatch, tmp_path / "runs")
    ledger("small")
    for out, fact in (("no/r.html", "No such file"), (".", "Is a directory")):
        told(run("report", "small", "-o", out, cwd=tmp_path), f"cannot write {out}", fact, "-o")


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount the small disk")
    try:
        words = ["export", "linear(dim=64)", "-o", str(disk / "out"), "--input", "seq[4,64]"]
        told(run(*words, cwd=tmp_path), "cannot be written", "No space left")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


IN_JSON = [
    ("check", "liner(dim=8)", *FLAT),
    ("sample", "liner(dim=8)", *FLAT),
    ("ops", "show", "liner"),
    ("train", "liner(dim=8)", "--task", "digits"),
    ("search", "liner(dim=8)", "--task", "digits"),
    ("status", "nope"),
    ("best", "nope"),
    ("verify", "nope"),
]


@pytest.mark.parametrize("words", IN_JSON, ids=lambda words: words[0])
def test_errors_are_json_on_stdout_where_json_is_asked(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    found = run(*words, "--json", cwd=tmp_path)
    assert found.returncode == 2, found.stderr
    facts = json.loads(found.stdout)
    assert facts["ok"] is False
    assert set(facts["errors"][0]) == {"message", "line", "column", "hint"}
    assert facts["errors"][0]["hint"]


HOSTILE = [
    '__import__("os").system("true") >> head',
    'embed(dim=16, name="x\\"; import os") >> head',
    "../../etc/passwd",
    "relu\n>> __class__",
    "rеlu",
    "a" * 5_000,
    "(" * 5_000 + "relu" + ")" * 5_000,
    "relu * 30000",
    'let __builtins__ = relu; __builtins__("x")',
    "relu as __init__ >> @__init__.globals",
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_code_in_a_text_reaches_neither_a_file_nor_a_folder(number: int, tmp_path: Path) -> None:
    text = HOSTILE[number]
    told(run("code", text, *FLAT, cwd=tmp_path), ":")
    told(run("export", text, "-o", str(tmp_path / "out"), *FLAT, cwd=tmp_path), ":")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_benchmark_that_is_not_there_is_told(tmp_path: Path) -> None:
    told(run("bench", "kernel", cwd=tmp_path), "no benchmark 'kernel'", "did you mean kernels?")


@pytest.mark.skipif(torch.cuda.is_available(), reason="here the benchmark can run")
def test_kernels_are_not_measured_without_a_gpu(tmp_path: Path) -> None:
    told(run("bench", "kernels", cwd=tmp_path), "needs a CUDA device", "hint:")
