"""The command line as a user meets it: exit codes, places, hints, JSON."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from registry.store import ALIAS, model_name
from registry.tracker import client_of, run_ids, tracking_uri
from tests.einspace.test_optable import CODE

ROOT = Path(__file__).resolve().parent.parent


def run(*args: str, runs: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if runs is not None:
        environment["EINSPACE_RUNS"] = str(runs)
    return subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), *args],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    assert run("--help").returncode == 0
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2.0
    code = "import sys, cli; sys.exit(bool({'torch','mlflow','optuna','ray'} & set(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
    )


def test_check_prints_what_scripts_rely_on() -> None:
    found = run("check", "gpt", "--json")
    assert found.returncode == 0
    facts = json.loads(found.stdout)
    assert facts["ok"] is True
    keys = "text hash input output params flops state_bytes causal nodes depth"
    assert set(keys.split()) <= set(facts)
    assert facts["causal"] is True
    again = run("check", facts["text"], "--task", "shakespeare", "--json")
    assert json.loads(again.stdout)["hash"] == facts["hash"]


WRONG = {
    ("check", "embed(dim=8) >> softmax_attn(heads=2) >> head", "--task", "mqar"): "sees later",
    ("check", "linear(dim=8) >> softmax_attn(heads=3)", "--input", "seq[4,8]"): "does not divide",
    ("check", "linear(dim=8) + linear(dim=4)", "--input", "seq[4,8]"): "seq[4,8] and seq[4,4]",
    ("check", "linear(dim=0)", "--input", "seq[4,8]"): "is not allowed",
    ("check", "liner(dim=8)", "--input", "seq[4,8]"): "did you mean linear",
    ("check", "relu"): "nothing says what flows in",
    ("check", "relu", "--input", "seq[4"): "is not a type",
    ("check", "relu", "--task", "nope"): "nope",
    ("sample", "embed(dim=8) >> conv2d(dim=4) >> head", "--task", "mqar"): "needs image",
    ("best", "nope"): "nope",
    ("status", "../evil"): "cannot name a study",
    ("verify", "/"): "is not an export",
}


@pytest.mark.parametrize("args", sorted(WRONG))
def test_bad_input_is_one_clear_error_with_exit_code_two(
    args: tuple[str, ...], tmp_path: Path
) -> None:
    found = run(*args, runs=tmp_path)
    assert found.returncode == 2, found.stderr
    assert WRONG[args] in found.stderr
    assert "Traceback" not in found.stderr


def test_errors_are_json_when_asked() -> None:
    found = run("check", "relu >> >> relu", "--input", "seq[4,8]", "--json")
    assert found.returncode == 2
    told = json.loads(found.stdout)
    assert told["ok"] is False
    assert (told["errors"][0]["line"], told["errors"][0]["column"]) == (1, 9)


def test_a_search_ends_in_a_verified_folder_and_resumes(tmp_path: Path) -> None:
    space = "conv2d(dim=4|8|12|16, kernel=3) >> {relu | silu} >> max_pool2d(kernel=2) >> head"
    words = ("search", space, "--task", "digits", "--epochs", "1", "--study", "s", "--json")
    first = run(*words, "--trials", "2", runs=tmp_path / "runs")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["trials"] == 2
    out = tmp_path / "winner"
    second = run(*words, "--trials", "3", "--export", str(out), runs=tmp_path / "runs")
    assert second.returncode == 0, second.stderr
    facts = json.loads(second.stdout)
    assert facts["trials"] == 3
    assert facts["best"]["run_id"]
    assert json.loads(run("verify", str(out), "--json").stdout)["ok"] is True
    uri = tracking_uri(tmp_path / "runs")
    version = client_of(uri).get_model_version_by_alias(model_name("s"), ALIAS)
    best = run_ids(uri, "s")[facts["best"]["trial"]]
    assert (version.run_id, version.tags["nas.hash"]) == (best, facts["best"]["hash"])
    number, run_id = next(
        (n, r) for n, r in run_ids(uri, "s").items() if n != facts["best"]["trial"]
    )
    taken = run("export", run_id, "-o", str(tmp_path / "other"), runs=tmp_path / "runs")
    assert taken.returncode == 0, taken.stderr
    told = json.loads((tmp_path / "other" / "config.json").read_text())
    client = client_of(uri)
    assert told["id"] == client.get_run(run_id).data.tags["nas.hash"]
    assert told["id"] != facts["best"]["hash"], number
    other = run("search", "conv2d(dim=4) >> head", *words[2:], runs=tmp_path / "runs")
    assert other.returncode == 2
    assert "space" in other.stderr + other.stdout


def test_space_prob_and_sample_print_what_scripts_rely_on() -> None:
    text, face = "({id | linear(dim=8|16) | relu} * 1..2) >> head", "seq[6,8]->scores[4]"
    told = json.loads(run("space", text, "--input", face, "--json").stdout)
    assert {"rules", "proper", "radius", "counts", "params_range", "flops_range"} <= set(told)
    assert (told["kind"], told["counts"]) == ("exact", {"2": "4", "3": "16"})
    known = json.loads(run("prob", text, "relu >> relu >> head", "--input", face, "--json").stdout)
    assert known["derivations"] == 1
    assert known["kind"] == "exact"
    words = ("sample", text, "--input", face, "-n", "3", "--uniform", "--nodes", "2", "--json")
    rows = [json.loads(line) for line in run(*words).stdout.splitlines()]
    assert [row["nodes"] for row in rows] == [2, 2, 2]
    assert {"text", "hash", "log_prob", "params", "flops", "nodes", "kind"} == set(rows[0])
    assert "exact" in run("space", text, "--input", face).stdout


def test_prob_names_the_first_part_that_the_space_cannot_derive() -> None:
    found = run("prob", "attention", "embed(dim=64) >> residual(rms_norm >> gru) >> head")
    assert found.returncode == 2
    assert "the space derives nothing with this 'gru'" in found.stderr
    assert "^^^" in found.stderr


def test_ops_are_listed_shown_and_drawn(tmp_path: Path) -> None:
    listed = json.loads(run("ops", "--json").stdout)
    assert listed == json.loads(run("ops", "list", "--json").stdout)
    keys = {"name", "family", "causal", "params", "state", "paper"}
    assert all(keys <= set(row) for row in listed)
    shown = run("ops", "show", "gla")
    assert shown.returncode == 0
    assert "S_t = " in shown.stdout
    assert json.loads(run("ops", "show", "gla", "--json").stdout)["example"]["text"] == "gla"
    assert run("ops", "show", "gla", "-o", str(tmp_path / "gla.svg")).returncode == 0
    assert (tmp_path / "gla.svg").read_text().startswith("<svg")


def test_ops_of_a_file_are_checked_and_used(tmp_path: Path) -> None:
    path = tmp_path / "my_ops.py"
    path.write_text(CODE, encoding="utf-8")
    held = run("ops", "test", str(path))
    assert ("checks hold" in held.stdout, held.stderr) == (True, "")
    words = ("check", "smooth", "--input", "seq[8,6]")
    found = run(*words, "--ops", str(path), "--json")
    assert json.loads(found.stdout)["params"] == 36
    assert run(*words).returncode == 2
    out = tmp_path / "out"
    exported = run("export", "smooth", "--input", "seq[8,6]", "--ops", str(path), "-o", str(out))
    assert exported.returncode == 0, exported.stderr
    assert "class Smooth(" in (out / "model.py").read_text()
    path.write_text(CODE.replace("2 * x.length", "x.length"), encoding="utf-8")
    failed = run("ops", "test", str(path))
    assert (failed.returncode, "flops: 1296 counted" in failed.stdout) == (2, True)
    assert "Traceback" not in failed.stderr
    as_json = json.loads(run("ops", "test", str(path), "--json").stdout)
    assert (as_json["ok"], {c["check"] for c in as_json["checks"] if not c["ok"]}) == (
        False,
        {"flops"},
    )
