"""A study teaches its space; seeds have traces where the space derives them."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from einspace.candidates import Frame, breed, candidate_of, draw, frame
from einspace.result import TrialRecord
from grammar.errors import SpaceError, StudyError
from grammar.parse import parse
from grammar.show import show
from grammar.walk import First, Replay
from search.known import seed_of
from search.learning import best_of, learn, save, warm
from search.strategies.prior import Prior
from search.study import Ledger, open_ledger
from search.tasks import find as find_task
from tests.search import small_search
from tests.search.small_search import SPACE
from tests.test_cli import run

LOST = "conv2d(dim=4, kernel=7) >> relu >> head"


@pytest.fixture(scope="module")
def space() -> Frame:
    return frame(SPACE, find_task("digits").interface)


def filled(ledger: Ledger, space: Frame, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """The study with 40 trials worth what `dim=12` is worth; every third known by text alone."""
    rows = []
    for number in range(40):
        found, _ = Prior().propose(space, (), maximize=True, seed=0, number=number, redraw=0)
        value = ("dim=12" in found.text) + number / 1000
        trace = {} if number % 3 == 0 else found.trace
        rows.append(TrialRecord(number, "ok", found.text, found.hash, value, trace=trace))
    rows.append(TrialRecord(40, "ok", LOST, "", 9.0))
    monkeypatch.setattr(ledger, "table", lambda: tuple(rows))
    return ledger


@pytest.fixture
def study(space: Frame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ledger:
    small_search.use_runs(monkeypatch, tmp_path)
    return filled(small_search.ledger(), space, monkeypatch)


def test_the_learned_space_prefers_what_was_good(study: Ledger, tmp_path: Path) -> None:
    found = learn(study, top=0.2)
    assert found.left_out == (40,)
    assert len(found.taught) == 8
    body = "\n".join(line for line in found.text.splitlines() if not line.startswith("#"))
    assert show(parse(body)) == body
    assert found.text.startswith("# small with weights learned from study small\n# task: digits\n")
    weights = dict(
        part.split(": ")[::-1] for part in body[body.index("dim=") + 4 :].split(",")[0].split(" | ")
    )
    assert float(weights["12"]) > 0.75
    save(found, tmp_path / "learned.space")
    frame(str(tmp_path / "learned.space"), find_task("digits").interface)
    with pytest.raises(StudyError, match="exists"):
        save(found, tmp_path / "learned.space")
    save(found, tmp_path / "learned.space", force=True)


def test_a_strong_prior_keeps_the_own_weights(study: Ledger) -> None:
    assert (
        "0.25000" in learn(study, strength=1e6).text or "0.2499" in learn(study, strength=1e6).text
    )


@pytest.mark.parametrize("top", [0.0, -0.5, 1.5, float("nan")])
def test_a_share_outside_its_range_is_refused(study: Ledger, top: float) -> None:
    with pytest.raises(StudyError, match="share"):
        learn(study, top=top)


def test_a_study_that_taught_nothing_is_refused(
    study: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpaceError, match="strength"):
        learn(study, strength=0)
    monkeypatch.setattr(study, "table", lambda: (TrialRecord(0, "ok", LOST, "", 9.0),))
    with pytest.raises(StudyError, match="no finished trial that its space derives"):
        learn(study)


def test_a_seed_of_the_space_has_the_trace_that_makes_it(space: Frame) -> None:
    text = "conv2d(dim=12, kernel=5) >> relu * 2 >> max_pool2d(kernel=2) >> head"
    seed = seed_of(space, text)
    assert seed.trace
    assert draw(space, Replay(seed.trace, First())).hash == seed.hash
    assert replace(seed, trace={}) == replace(
        candidate_of(text, space.typing.interface), log_prob=seed.log_prob
    )


def test_a_seed_of_a_recursive_space_has_its_trace_too() -> None:
    recursive = frame("m = 0.9: relu | m >> m; m >> head", find_task("digits").interface)
    seed = seed_of(recursive, "relu * 30 >> head")
    assert draw(recursive, Replay(seed.trace, First())).hash == seed.hash
    child, _ = breed(recursive, "subtree", [seed.trace], random.Random(0))
    assert child.hash != seed.hash


def test_a_seed_of_another_space_has_none(space: Frame) -> None:
    assert not seed_of(space, LOST).trace


def test_best_is_in_the_direction_asked(study: Ledger) -> None:
    values = [t.value or 0 for t in best_of(study, 0.5)]
    assert values == sorted(values, reverse=True)
    assert len(values) == 21


def test_a_warm_start_tries_the_best_of_another_study_first(study: Ledger) -> None:
    setup = replace(small_search.SETUP, name="new", seeds=(("mine", LOST),))
    seeds = warm(setup, study, 3).seeds
    assert seeds[:2] == (("mine", LOST), ("small#40", LOST))
    texts = [t.text for t in best_of(study, 1.0)]
    assert [text for _, text in seeds[1:]] == list(dict.fromkeys(texts))[:3]
    with pytest.raises(StudyError, match="fits task 'mqar'"):
        warm(replace(setup, task="mqar"), study, 3)


EDITED = SPACE.replace("kernel=3|5", "kernel=3|5|1").replace("relu >> {", "gelu >> {")


def test_a_warm_start_from_an_edited_space_keeps_what_is_still_there(study: Ledger) -> None:
    setup = replace(small_search.SETUP, name="new", space_text=EDITED)
    place = frame(EDITED, find_task("digits").interface)
    seeds = warm(setup, study, 6).seeds
    assert ("small#40", LOST) in seeds  # known by its text alone
    moved = {name: text for name, text in seeds if name.endswith("choices kept")}
    assert len(moved) >= 2
    for name, text in moved.items():
        old = study.table()[int(name.split("#")[1].split(",")[0])].text
        assert "gelu" in text
        assert text.split(" >> ")[0] == old.split(" >> ")[0]
        assert seed_of(place, text).trace
    assert warm(setup, study, 6).seeds == seeds


def test_the_same_study_with_an_edited_space_is_refused_and_the_way_on_told(study: Ledger) -> None:
    with pytest.raises(StudyError, match="asks something else") as caught:
        small_search.ledger(space_text=EDITED)
    assert "--warm-start small" in (caught.value.hint or "")


@pytest.mark.slow  # searches in processes of their own
def test_the_command_line_writes_a_space_that_can_be_searched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs, out = small_search.use_runs(monkeypatch, tmp_path), tmp_path / "learned.space"
    small_search.ledger()
    small_search.work(trials=3)
    first = run("learn", "small", "-o", str(out), "--top", "1", runs=runs)
    assert first.returncode == 0, first.stderr
    assert "3 trials taught, 0 could not" in first.stdout
    assert run("sample", str(out), "-n", "3", runs=runs).returncode == 0
    words = ("--task", "digits", "--trials", "1", "--study", "new", "--warm-start", "small")
    assert run("search", str(out), *words, "--epochs", "1", runs=runs).returncode == 0
    (trial,) = open_ledger("new").table()
    assert trial.origin.startswith("seed:small#")
    assert trial.trace
    for wrong, says in (
        (("small", "-o", str(out)), "exists"),
        (("smal", "-o", str(out)), "small"),
    ):
        found = run("learn", *wrong, runs=runs)
        assert found.returncode == 2
        assert says in found.stderr
        assert "Traceback" not in found.stderr
