"""The study and where it lives: names, journals, questions that differ, sampler and pruner."""

import json
import os
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from grammar.errors import StudyError
from search import storage as places
from search.records import search_record
from search.study import Pruner, Sampler, create, open_ledger
from tests.search.small_search import SETUP, SPACE, TAGS, ledger, use_runs


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use_runs(monkeypatch, tmp_path / "runs")


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "a b", "x" * 81, "naïve", "a\n"])
def test_a_name_that_cannot_be_a_folder_is_refused(name: str) -> None:
    with pytest.raises(StudyError, match="cannot name a study") as error:
        places.study_dir(name)
    assert "80 letters" in error.value.hint


def test_an_unwritable_runs_folder_says_how_to_move_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    use_runs(monkeypatch, file / "runs")
    with pytest.raises(StudyError, match="cannot write to") as error:
        ledger()
    assert "EINSPACE_RUNS" in error.value.hint


def test_an_unknown_study_lists_the_known_ones_and_the_nearest() -> None:
    ledger("digits-small")
    with pytest.raises(StudyError, match="there is no study 'digits-smal'") as error:
        open_ledger("digits-smal")
    assert "did you mean 'digits-small'?" in error.value.hint


def test_looking_for_a_study_creates_nothing(runs: Path) -> None:
    with pytest.raises(StudyError, match="no study"):
        open_ledger("nothing")
    assert not runs.exists()


def test_a_study_comes_back_as_it_was_asked() -> None:
    seeds = (("first", "flatten"),)
    ledger(seeds=seeds, max_params=1000)
    again = open_ledger("small")
    assert again.setup == replace(SETUP, seeds=seeds, max_params=1000)
    assert again.tags() == TAGS
    record = search_record(again)
    assert (record.space_text, record.metric, record.direction) == (SPACE, "acc", "maximize")
    assert record.trials == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"space_text": "net = head;"}, "space was small"),
        ({"task": "vowels"}, "task was digits, now vowels"),
        ({"objective": "loss"}, "objective was acc, now loss"),
        ({"epochs": 2}, "epochs was 1, now 2"),
    ],
)
def test_the_same_name_for_another_question_is_refused(
    change: dict[str, object], said: str
) -> None:
    ledger()
    with pytest.raises(StudyError, match=said):
        ledger(**change)
    assert open_ledger("small").setup == SETUP


def test_the_same_question_opens_the_same_study() -> None:
    first = ledger()
    first.study.enqueue_trial({}, user_attrs={"nas.text": "x"})
    second = ledger(seed=3)
    assert len(second.trials()) == 1
    assert open_ledger("small").setup.seed == 3


def test_a_truncated_last_line_is_cut_off_and_nothing_else(runs: Path) -> None:
    opened = ledger()
    opened.study.enqueue_trial({}, user_attrs={"nas.text": "kept"})
    journal = runs / "small" / places.JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"worker_')
    again = open_ledger("small")
    assert journal.read_bytes() == whole
    again.study.enqueue_trial({}, user_attrs={"nas.text": "next"})
    assert [t.text for t in open_ledger("small").table()] == ["kept", "next"]


def test_a_line_truncated_while_the_study_is_open_is_mended_by_the_next_write(runs: Path) -> None:
    opened = ledger()
    with (runs / "small" / places.JOURNAL).open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    opened.study.enqueue_trial({}, user_attrs={"nas.text": "next"})
    assert [t.text for t in open_ledger("small").table()] == ["next"]


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (b"no json at all\n", 2),
        (b'{"op_code": 99, "worker_id": "x"}\n', 2),
        (b'["a list"]\n', 2),
        (b"\x00\xff\x00\n", 2),
    ],
)
def test_a_corrupted_journal_is_named_by_file_and_line_and_left_alone(
    runs: Path, damage: bytes, line: int
) -> None:
    ledger()
    journal = runs / "small" / places.JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    broken = b"".join([lines[0], damage, *lines[1:]])
    journal.write_bytes(broken)
    with pytest.raises(StudyError, match=f"journal.log:{line}: the journal is corrupted") as error:
        open_ledger("small")
    assert "head -n 1" in error.value.hint
    assert journal.read_bytes() == broken


def test_a_file_that_is_no_journal_is_left_alone(runs: Path) -> None:
    (runs / "small").mkdir(parents=True)
    journal = runs / "small" / places.JOURNAL
    journal.write_bytes(b"dear diary")
    with pytest.raises(StudyError, match="does not end in a journal record"):
        ledger()
    assert journal.read_bytes() == b"dear diary"


def test_a_record_that_cannot_be_replayed_is_a_study_error(runs: Path) -> None:
    ledger()
    journal = runs / "small" / places.JOURNAL
    with journal.open("ab") as file:
        file.write(json.dumps({"op_code": 4, "worker_id": "x"}).encode() + b"\n")
    with pytest.raises(StudyError, match="cannot be replayed"):
        open_ledger("small")


def test_a_foreign_study_in_the_journal_is_refused(runs: Path) -> None:
    storage = places.open_storage("other", create=True)
    optuna.create_study(study_name="other", storage=storage)
    with pytest.raises(StudyError, match="holds no search"):
        open_ledger("other")


@pytest.mark.parametrize("url", ["sqlite:///x.db", "mysql://host/db", "nonsense"])
def test_only_postgresql_is_a_storage_url(url: str) -> None:
    with pytest.raises(StudyError, match="is not a storage for studies"):
        create(SETUP, TAGS, url)


def test_a_database_that_does_not_answer_is_a_study_error() -> None:
    with pytest.raises(StudyError, match=r"driver|cannot open the database"):
        create(SETUP, TAGS, "postgresql://nobody@127.0.0.1:9/none")


def test_a_lock_is_free_again_when_its_holder_is_killed(runs: Path) -> None:
    folder = places.study_dir("small", create=True)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        with places.locked(folder / "a.lock"):
            os.write(theirs, b"x")
            os.read(ours, 0)
            import time

            time.sleep(60)
    assert os.read(ours, 1) == b"x"
    with places.locked(folder / "a.lock", wait=False) as got:
        assert not got
    os.kill(child, 9)
    os.waitpid(child, 0)
    os.close(ours)
    os.close(theirs)
    with places.locked(folder / "a.lock", wait=False) as got:
        assert got


def _suggest(name: str, resumed: bool) -> list[float]:
    """The learning rates of 14 trials whose value is the rate; optionally reopened each time."""
    opened = ledger(name)
    rates = []
    for _ in range(14):
        opened = open_ledger(name) if resumed else opened
        trial = opened.study.ask()
        rates.append(trial.suggest_float("lr", 1e-4, 1e-2, log=True))
        opened.study.tell(trial, rates[-1])
    return rates


def test_the_sampler_goes_on_after_a_resume_as_if_never_stopped() -> None:
    whole = _suggest("whole", resumed=False)
    assert _suggest("parts", resumed=True) == whole
    assert len(set(whole)) == 14
    assert sum(whole[-3:]) / 3 > sum(whole[:10]) / 10


def test_hyperband_prunes_the_worse_and_keeps_the_better() -> None:
    study = optuna.create_study(direction="maximize", sampler=Sampler(0), pruner=Pruner(1, 9))
    ended: dict[bool, list[int]] = {True: [], False: []}
    for number in range(30):
        trial = study.ask()
        good = number % 3 == 0
        for epoch in range(1, 10):
            trial.report((1.0 if good else 0.1) + 0.01 * epoch - 0.001 * number, epoch)
            if epoch < 9 and trial.should_prune():
                break
        ended[good].append(epoch)
        study.tell(trial, epoch)
    assert sum(ended[True]) / len(ended[True]) > sum(ended[False]) / len(ended[False]) + 2
    assert min(ended[False]) == 1


def test_a_finished_trial_is_read_once_and_an_open_one_each_time() -> None:
    book = ledger()
    first, second = book.study.ask(), book.study.ask()
    book.note(0, text="a")
    book.note(1, text="b")
    book.study.tell(first, 0.5)
    before = book.table()
    book.note(1, text="c", status="nan")
    book.study.tell(second, state=TrialState.FAIL)
    after = book.table()
    assert after[0] is before[0]
    assert [(t.status, t.text) for t in (*before, *after)] == [
        ("ok", "a"),
        ("running", "b"),
        ("ok", "a"),
        ("nan", "c"),
    ]
    assert book.table()[1] is after[1]
    assert open_ledger("small").table() == after
