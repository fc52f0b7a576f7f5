"""Projecting again mends what is missing, half-written or of another study, without doubles."""

from dataclasses import replace
from pathlib import Path

import pytest

from einspace.interface import Interface
from einspace.result import SearchRecord, TrialRecord
from ops.spec import scores, vec
from registry.report import ops_used, report_page
from registry.tracker import EXPERIMENT, Projector, client_of, improvements, project, run_ids
from registry.tracker import tracking_uri as uri_of

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's imports warn
TEXT = "linear(dim=4) >> relu >> head"


def trial(number: int, value: float) -> TrialRecord:
    return TrialRecord(
        number,
        "ok",
        TEXT,
        f"{number:016x}",
        value,
        {"lr": 0.01},
        {"params": 100.0},
        {"val_acc": (0.5, value)},
        started=1e9 + number,
        seconds=2.0,
    )


def record(study: str, *trials: TrialRecord) -> SearchRecord:
    face = Interface({"x": vec(6)}, scores(3))
    return SearchRecord(
        study, "s", "net = head;", "t", "acc", "maximize", {"seed": "0"}, trials, face
    )


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return uri_of(tmp_path_factory.mktemp("runs"))


def parents(uri: str, study: str) -> list[str]:
    client = client_of(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    query = f"tags.`nas.study` = '{study}' and tags.`nas.kind` = 'search'"
    return [r.info.run_id for r in client.search_runs([experiment.experiment_id], query)]


def test_a_run_cut_off_half_way_is_completed_without_doubles(uri: str) -> None:
    rows = record("half", trial(0, 0.5), trial(1, 0.7))
    project(rows, uri)
    client, ids = client_of(uri), run_ids(uri, "half")
    client.delete_tag(ids[1], "nas.complete")
    client.update_run(ids[1], status="RUNNING")
    assert project(rows, uri) == 1
    assert run_ids(uri, "half") == ids
    assert client.get_run(ids[1]).info.status == "FINISHED"
    assert [m.value for m in client.get_metric_history(ids[1], "val_acc")] == [0.5, 0.7]
    assert [m.value for m in client.get_metric_history(ids[1], "acc")] == [0.7]


def test_the_parent_shows_the_best_so_far_once_however_often_it_is_projected(uri: str) -> None:
    rows = record("course", trial(0, 0.5), trial(1, 0.4), trial(2, 0.9))
    for _ in range(3):
        project(rows, uri)
    (parent,) = parents(uri, "course")
    client = client_of(uri)
    points = [(m.step, m.value) for m in client.get_metric_history(parent, "best_acc")]
    assert points == [(0, 0.5), (2, 0.9)]
    assert {f.path for f in client.list_artifacts(parent, "best")} == {
        "best/architecture.arch",
        "best/curves.csv",
        "best/graph.svg",
        "best/model.py",
    }


def test_a_deleted_parent_and_a_deleted_experiment_come_back(uri: str) -> None:
    rows = record("parent", trial(0, 0.5))
    project(rows, uri)
    client = client_of(uri)
    (old,) = parents(uri, "parent")
    client.delete_run(old)
    project(rows, uri)
    (new,) = parents(uri, "parent")
    child = client.get_run(run_ids(uri, "parent")[0])
    assert new != old
    assert child.data.tags["mlflow.parentRunId"] == new
    client.delete_experiment(child.info.experiment_id)
    project(rows, uri)
    assert client.get_experiment(child.info.experiment_id).lifecycle_stage == "active"


def test_a_study_begun_anew_under_its_name_replaces_the_old_trials(uri: str) -> None:
    project(record("again", trial(0, 0.5), trial(1, 0.6)), uri)
    other = replace(trial(0, 0.8), hash="f" * 16)
    project(record("again", other), uri)
    ids = run_ids(uri, "again")
    assert set(ids) == {0}
    run = client_of(uri).get_run(ids[0])
    assert (run.data.tags["nas.hash"], run.data.metrics["acc"]) == ("f" * 16, 0.8)


def test_long_curves_do_not_push_out_the_value(uri: str) -> None:
    long = replace(trial(0, 0.5), curves={"val_acc": tuple(i / 2000 for i in range(2000))})
    project(record("long", long), uri)
    client, run_id = client_of(uri), run_ids(uri, "long")[0]
    assert client.get_run(run_id).data.metrics["acc"] == 0.5
    history = client.get_metric_history(run_id, "val_acc")
    assert sorted(m.step for m in history) == list(range(1, 2001))


def test_odd_names_and_endings_are_tracked(uri: str) -> None:
    odd = replace(trial(0, 0.5), status="killed", metrics={"p#[0]\n'x": 1.0}, error="\0'; drop--")
    projector = Projector(uri, pytest.fail)
    assert projector.push(record("odd", odd))
    run = client_of(uri).get_run(run_ids(uri, "odd")[0])
    assert run.info.status == "KILLED"
    assert run.data.metrics["p__0___x"] == 1.0


def test_a_machine_without_graphviz_still_tracks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setattr("einspace.render.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Projector(uri, pytest.fail).push(record("bare", trial(0, 0.5)))
    names = {f.path for f in client_of(uri).list_artifacts(run_ids(uri, "bare")[0])}
    assert names == {"architecture.arch", "curves.csv", "model.py", "no-drawing.txt"}


def test_improvements_follow_the_direction() -> None:
    rows = record("x", trial(0, 0.5), trial(1, 0.4), trial(2, 0.3), trial(3, 0.6))
    assert [t.number for t in improvements(rows)] == [0, 3]
    down = replace(rows, direction="minimize")
    assert [t.number for t in improvements(down)] == [0, 1, 2]


def test_the_report_counts_ops_and_draws_the_winner() -> None:
    assert ops_used([trial(0, 0.5)]) == {"linear": 1, "relu": 1, "head": 1}
    page = report_page(record("x", trial(0, 0.5)))
    assert "<svg " in page
    assert "linear(dim=4)" in page
