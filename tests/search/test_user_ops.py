"""A search with a user's ops: the study keeps the file, workers read it, a changed one is out."""

import json
from pathlib import Path

import pytest

from einspace.opfiles import VARIABLE, enable, given
from grammar.errors import OpError, StudyError
from search.setup import setup_of
from search.study import Ledger, create, open_ledger
from tests.einspace.test_optable import CODE
from tests.search.small_search import TAGS, use_runs, work

SPACE = "net = patch(dim=8, size=4) >> smooth(rate=0.1|0.5|0.9) >> head;"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, "")
    use_runs(monkeypatch, tmp_path / "runs")
    found = tmp_path / "my_ops.py"
    found.write_text(CODE, encoding="utf-8")
    return found


def _study(path: Path | None) -> Ledger:
    if path is not None:
        enable([str(path)])
    setup = setup_of(
        SPACE,
        task="digits",
        strategy="prior",
        seed=0,
        seed_archs=(),
        epochs=1,
        study="mine",
        limits=(None, None, None),
    )
    return create(setup, TAGS)


def test_a_worker_reads_the_file_that_the_study_names(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = _study(path).setup.ops
    assert ref == given()
    monkeypatch.setenv(VARIABLE, "")  # as in a worker that somebody starts by hand
    assert work("mine", trials=2).reason == "done"
    assert given() == ref
    for trial in open_ledger("mine").table():
        assert (trial.status, "smooth" in trial.text) == ("ok", True)


def test_a_study_is_not_resumed_with_another_content(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _study(path)
    path.write_text(CODE + "\n", encoding="utf-8")
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(StudyError, match=r"ops was .*my_ops.py#.*, now .*my_ops.py#"):
        _study(path)
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(OpError, match="has changed since"):
        work("mine", trials=1)
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(StudyError, match="now none"):
        _study(None)


def test_the_same_content_under_another_path_resumes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _study(path)
    other = path.with_name("copy.py")
    path.rename(other)
    monkeypatch.setenv(VARIABLE, "")
    assert _study(other).setup.ops == given()
    assert open_ledger("mine").setup.ops[0].startswith(str(other))


def test_a_worker_may_have_the_file_elsewhere(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _study(path)
    other = path.with_name("copy.py")
    path.rename(other)
    monkeypatch.setenv(VARIABLE, str(other))
    assert work("mine", trials=1).reason == "done"


def test_a_study_of_before_has_no_files(path: Path) -> None:
    ledger = _study(path)
    stored = dict(ledger.study.user_attrs["nas.setup"])
    del stored["ops"]
    ledger.study.set_user_attr("nas.setup", json.loads(json.dumps(stored)))
    assert open_ledger("mine").setup.ops == ()
