"""The cross-entropy method: a pure function that finds what it is paid for."""

import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from einspace.candidates import Candidate, Frame, frame
from einspace.result import TrialRecord
from search.strategies import Strategy, find
from search.strategies.cem import CrossEntropy
from search.strategies.prior import Prior
from search.tasks import find as find_task
from tests.search import small_search
from tests.search.small_search import SPACE

WIDE = (
    "net = layer * 6 >> head;"
    "layer = conv2d(dim=4|8|12|16, kernel=3|5) >> {relu | leaky_relu(slope=1e-2) | gelu};"
)
GOAL = ("conv2d(dim=12, kernel=5)", "gelu")


@pytest.fixture(scope="module")
def space() -> Frame:
    return frame(WIDE, find_task("digits").interface)


def worth(found: Candidate) -> float:
    """How many of the six layers are the wanted one, in halves."""
    text = found.text.replace("conv2d(dim=12, kernel=5)", "A")
    total = 0.0
    for factor in text.split(" >> "):
        body, _, times = factor.partition(" * ")
        total += int(times or 1) * (0.5 * body.count("A") + 0.5 * body.count("gelu"))
    return total


def searched(
    strategy: Strategy, space: Frame, trials: int, seed: int, value: Callable[[Candidate], float]
) -> tuple[TrialRecord, ...]:
    rows: tuple[TrialRecord, ...] = ()
    for number in range(trials):
        found, origin = strategy.propose(
            space, rows, maximize=True, seed=seed, number=number, redraw=0
        )
        row = TrialRecord(
            number, "ok", found.text, found.hash, value(found), trace=found.trace, origin=origin
        )
        rows = (*rows, row)
    return rows


def spread(found: Candidate) -> float:
    """A value that any space's architectures differ in."""
    return int(found.hash[:6], 16) / 16**6


def test_it_finds_the_best_layers_where_the_prior_does_not(space: Frame) -> None:
    for seed in range(2):
        learned = searched(CrossEntropy(), space, 160, seed, worth)
        drawn = searched(Prior(), space, 160, seed, worth)
        assert max(t.value or 0 for t in learned) >= max(t.value or 0 for t in drawn) + 1
        late = [t.value or 0 for t in learned[-40:]]
        assert sum(late) / 40 > 1.5 * sum(t.value or 0 for t in drawn[-40:]) / 40


def test_a_proposal_follows_from_table_seed_and_number_alone(space: Frame) -> None:
    rows = searched(CrossEntropy(), space, 50, 0, worth)
    used = CrossEntropy()
    for number in (60, 59, 21, 45, 60):
        random.seed(number)
        table = tuple(replace(t, started=9.0, seconds=1.0) for t in rows[:number])
        fresh = CrossEntropy().propose(space, table, maximize=True, seed=0, number=number, redraw=1)
        again = used.propose(space, table, maximize=True, seed=0, number=number, redraw=1)
        assert again == fresh
    assert searched(CrossEntropy(), space, 30, 0, worth) == rows[:30]


def test_one_instance_serves_two_spaces(space: Frame) -> None:
    other = frame(SPACE, find_task("digits").interface)
    one = CrossEntropy()
    for place in (space, other, space):
        rows = searched(CrossEntropy(), place, 20, 0, spread)
        found = one.propose(place, rows, maximize=True, seed=0, number=20, redraw=0)
        assert found == CrossEntropy().propose(
            place, rows, maximize=True, seed=0, number=20, redraw=0
        )
        assert found[1] == "cem 1 of 4"


def test_the_elite_is_the_best_of_the_last_generations() -> None:
    rows = [
        TrialRecord(n, "ok" if n % 2 else "pruned", value=float(n), trace={"/0": 0})
        for n in range(20)
    ]
    rows[19] = replace(rows[19], trace={})
    rows[17] = replace(rows[17], value=float("nan"))
    strategy = CrossEntropy(size=5, window=2, quantile=0.3)
    assert [t.number for t in strategy.elite(rows, 20, True)] == [15, 13, 11]
    assert [t.number for t in strategy.elite(rows, 24, False)] == [11, 13, 15]
    assert strategy.elite(rows, 4, True) == []
    assert strategy.elite(rows, 9, True)[0].number == 3


def test_known_architectures_lead_back_to_the_space(space: Frame) -> None:
    rows = searched(CrossEntropy(), space, 20, 0, worth)
    found = CrossEntropy().propose(space, rows, maximize=True, seed=0, number=20, redraw=10)
    assert found == Prior().propose(space, rows, maximize=True, seed=0, number=20, redraw=10)


def test_a_proposal_at_five_thousand_trials_is_quick(space: Frame) -> None:
    base = searched(Prior(), space, 200, 0, spread)
    rows = tuple(replace(base[n % 200], number=n) for n in range(5_000))
    strategy = CrossEntropy()
    start = time.process_time()
    for number in range(5_000, 5_040):
        strategy.propose(space, rows, maximize=True, seed=0, number=number, redraw=0)
    assert (time.process_time() - start) / 40 < 0.06  # 20 ms, with room for a busy machine


@pytest.mark.slow  # twenty trials come before the first learned one
def test_a_small_search_runs_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small_search.use_runs(monkeypatch, tmp_path)
    ledger = small_search.ledger(strategy="cem")
    assert isinstance(find("cem"), CrossEntropy)
    small_search.work(trials=22)
    assert [t.origin for t in ledger.table()][:1] == ["prior"]
    assert any(t.origin.startswith("cem 1 of") for t in ledger.table()[20:])
