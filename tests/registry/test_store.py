"""The champion is the exported file: same outputs, no pickle, a version for each set of weights."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from einspace.compile import compile_text
from einspace.interface import Interface
from einspace.load import load
from grammar.errors import ExportError
from ops.spec import scores, vec
from registry.export import export
from registry.store import model_name, register, try_register
from registry.tracker import client_of, project, run_ids, tracking_uri
from tests.registry.test_repair import record, trial

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's imports warn
LOAD = """
import sys, json
import mlflow
mlflow.set_tracking_uri(sys.argv[1]); mlflow.set_registry_uri(sys.argv[1])
from safetensors.numpy import load_file
sample = load_file(sys.argv[3])
y = mlflow.pyfunc.load_model(sys.argv[2]).predict(sample["input_0"])
print(float(abs(y - sample["output"]).max()), "einspace" in sys.modules)
"""


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = tracking_uri(tmp_path_factory.mktemp("runs"))
    project(record("shop", trial(0, 0.5)), uri)
    return uri


def exported(out: Path, seed: int) -> Path:
    compiled = compile_text("linear(dim=5) >> relu >> head", Interface({"x": vec(6)}, scores(3)))
    torch.manual_seed(seed)
    return export(compiled, load(compiled.source)().state_dict(), out, facts={})


def test_the_champion_gives_the_outputs_of_the_export(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    empty = tmp_path / "here"
    empty.mkdir()
    monkeypatch.chdir(empty)
    before = mlflow.get_tracking_uri()
    client, run_id = client_of(uri), run_ids(uri, "shop")[0]
    ending = client.get_run(run_id).info
    first = register(exported(tmp_path / "a", 1), uri, "shop", trial=0)
    assert (first.name, first.version) == ("einspace-shop", 1)
    assert mlflow.get_tracking_uri() == before
    again = client.get_run(run_id).info
    assert (again.status, again.end_time) == (ending.status, ending.end_time)
    assert project(record("shop", trial(0, 0.5)), uri) == 0
    sample = tmp_path / "a" / "sample.safetensors"
    command = [sys.executable, "-I", "-W", "ignore", "-c", LOAD, uri, first.uri, str(sample)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split()[-2:] == ["0.0", "False"]

    assert register(tmp_path / "a", uri, "shop", trial=0).version == 1
    second = register(exported(tmp_path / "b", 2), uri, "shop", trial=0)
    assert second.version == 2
    assert str(client.get_model_version_by_alias(first.name, "champion").version) == "2"
    assert register(tmp_path / "a", uri, "shop", trial=0).version == 1
    assert str(client.get_model_version_by_alias(first.name, "champion").version) == "1"

    assert list(empty.iterdir()) == []

    stored = [p for p in Path(uri.removeprefix("sqlite:///")).parent.rglob("*") if p.is_file()]
    assert any(p.name == "weights.safetensors" for p in stored)
    assert not [p for p in stored if p.suffix in (".pkl", ".pickle", ".pt", ".pth")]


def test_what_is_no_export_or_no_study_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is not an export"):
        register(tmp_path, uri, "shop")
    folder = exported(tmp_path / "out", 3)
    with pytest.raises(ExportError, match="does not know the study") as caught:
        register(folder, uri, "nowhere")
    assert "einspace repair nowhere" in caught.value.hint
    told: list[str] = []
    assert try_register(folder, uri, "nowhere", told.append) is None
    (tmp_path / "mlflow.db").write_text("this is no database, " * 100)
    assert try_register(folder, tracking_uri(tmp_path), "shop", told.append) is None
    assert len(told) == 2


def test_names_of_models_hold_no_path() -> None:
    assert model_name("a/b:c'd") == "einspace-a_b_c_d"
