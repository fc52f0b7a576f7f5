"""The projection: complete, idempotent, and repaired by projecting again."""

from dataclasses import replace
from pathlib import Path

import pytest

from einspace.interface import Interface
from einspace.result import SearchRecord, TrialRecord
from ops.spec import image, scores
from registry.artifacts import trial_files
from registry.report import pareto, report_page
from registry.tracker import Projector, client_of, project, run_ids, tracking_uri

TEXT = "conv2d(dim=4) >> relu >> head"
OK = TrialRecord(
    0,
    "ok",
    TEXT,
    "0123456789abcdef",
    0.9,
    {"lr": 0.01},
    {"params": 100.0, "epochs": 2.0},
    {"val_acc": (0.5, 0.9)},
    origin="prior",
    started=1e9,
    seconds=2.0,
    engine="eager: moe cannot be captured",
)
BUG = TrialRecord(1, "bug", TEXT, "1", error="<script>alert(1)</script>", started=1e9)
RECORD = SearchRecord(
    "study-1",
    "vision",
    "net = head; # <b>",
    "digits",
    "acc",
    "maximize",
    {"seed": "0"},
    (OK, BUG, replace(OK, number=2, status="running", value=None)),
    Interface({"x": image(1, 8, 8)}, scores(3)),
)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tracking_uri(tmp_path_factory.mktemp("runs"))


@pytest.mark.filterwarnings("ignore")
def test_a_record_is_projected_once_and_completed_later(uri: str) -> None:
    assert project(RECORD, uri) == 3
    assert project(RECORD, uri) == 0 + 1  # the running trial is looked at again
    ids = run_ids(uri, "study-1")
    assert set(ids) == {0, 1, 2}
    client = client_of(uri)
    run = client.get_run(ids[0])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["acc"] == 0.9
    assert run.data.params["lr"] == "0.01"
    assert run.data.tags["nas.engine"] == "eager: moe cannot be captured"
    assert [m.value for m in client.get_metric_history(ids[0], "val_acc")] == [0.5, 0.9]
    names = {f.path for f in client.list_artifacts(ids[0])}
    assert names == {"architecture.arch", "curves.csv", "graph.svg", "model.py"}
    assert client.get_run(ids[1]).info.status == "FAILED"
    assert client.get_run(ids[2]).info.status == "RUNNING"
    client.delete_run(ids[0])
    finished = replace(OK, number=2)
    assert project(replace(RECORD, trials=(OK, BUG, finished)), uri) == 2
    again = run_ids(uri, "study-1")
    assert set(again) == {0, 1, 2}
    assert again[0] != ids[0]
    assert again[2] == ids[2]


@pytest.mark.filterwarnings("ignore")
def test_a_broken_tracker_is_told_once_and_never_raises(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database, " * 100)
    told: list[str] = []
    projector = Projector(tracking_uri(tmp_path), told.append)
    assert not projector.push(RECORD)
    assert not projector.push(RECORD)
    assert len(told) == 1
    assert "einspace repair study-1" in told[0]


def test_the_report_escapes_what_users_wrote() -> None:
    page = report_page(RECORD)
    assert "<script>" not in page
    assert "# <b>" not in page
    assert "data:image/png;base64," in page


def test_the_report_of_an_empty_study_says_so() -> None:
    assert "No trial has finished yet" in report_page(replace(RECORD, trials=()))


def test_the_pareto_front_holds_only_what_nothing_beats() -> None:
    def trial(number: int, value: float, params: float) -> TrialRecord:
        return replace(OK, number=number, value=value, metrics={"params": params})

    rows = [trial(0, 0.9, 100), trial(1, 0.8, 50), trial(2, 0.85, 120), trial(3, 0.95, 200)]
    assert [t.number for t in pareto(rows, maximise=True)] == [1, 0, 3]


def test_a_running_search_is_shown_when_trials_have_ended_and_not_too_often(tmp_path: Path) -> None:
    projector = Projector(tracking_uri(tmp_path), print, every=1e6)
    projector.follow(replace(RECORD, trials=()))
    assert run_ids(projector.uri, "study-1") == {}
    projector.follow(replace(RECORD, trials=(OK,)))
    assert set(run_ids(projector.uri, "study-1")) == {0}
    projector.follow(RECORD)  # within the pause
    assert set(run_ids(projector.uri, "study-1")) == {0}
    assert projector.push(RECORD)
    assert set(run_ids(projector.uri, "study-1")) == {0, 1, 2}


def test_curves_are_a_table_whose_short_columns_end_empty() -> None:
    trial = replace(OK, curves={"loss": (1.0, 0.5), "val_acc": (0.25,)})
    assert trial_files(trial, None)["curves.csv"] == "epoch,loss,val_acc\n1,1.0,0.25\n2,0.5,\n"


def _two(number: int, value: float, params: float) -> TrialRecord:
    metrics = {"params": params, "epochs": 2.0}
    return replace(OK, number=number, value=value, metrics=metrics, values=(value, params))


TWO = replace(
    RECORD,
    study="two",
    objectives=("acc", "params"),
    trials=(_two(0, 0.9, 100.0), _two(1, 0.8, 50.0), _two(2, 0.7, 70.0)),
)


def _labelled(uri: str) -> set[int]:
    """The trials that MLflow shows as members of the front."""
    client = client_of(uri)
    ids = run_ids(uri, "two").items()
    return {n for n, i in ids if client.get_run(i).data.tags.get("nas.front") == "yes"}


@pytest.mark.filterwarnings("ignore")
def test_members_of_the_front_are_tagged_and_lose_the_tag_when_beaten(uri: str) -> None:
    assert project(TWO, uri) == 3
    assert _labelled(uri) == {0, 1}
    client = client_of(uri)
    run = client.get_run(run_ids(uri, "two")[1])
    assert (run.data.metrics["acc"], run.data.metrics["params"]) == (0.8, 50.0)
    assert project(TWO, uri) == 0
    better = replace(TWO, trials=(*TWO.trials, _two(3, 0.85, 40.0)))
    assert project(better, uri) == 1
    assert _labelled(uri) == {0, 3}


def test_the_report_of_several_objectives_shows_each_cost_and_the_members() -> None:
    page = report_page(TWO)
    assert "Pareto front of acc, params: 2 trials" in page
    three = [replace(t, values=(*t.values, 0.0)) for t in TWO.trials]
    more = replace(TWO, objectives=("acc", "params", "latency"), trials=tuple(three))
    assert report_page(more).count("data:image/png") == page.count("data:image/png") + 1
