"""Surrogates and the strategies that ask them, on an objective computed from the text."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from einspace.candidates import Candidate, Frame, breed, candidate_of, frame, sample
from einspace.library import resolve
from einspace.result import TrialRecord
from grammar.parse import parse
from search.features import Columns, Featurizer
from search.strategies import find
from search.strategies.bayes import Bayes, BayesEvolution, Model
from search.strategies.prior import Prior
from search.surrogate import Gp, improvement, normal, scores
from search.tasks import find as find_task
from tests.search.synthetic import place, run, worth

BOTH = [Bayes, BayesEvolution]


@pytest.fixture(scope="module")
def space() -> Frame:
    return place()


@pytest.mark.slow
def test_bayes_beats_the_prior_over_ten_seeds(space: Frame) -> None:
    def best(strategy: Bayes | Prior) -> list[float]:
        tables = [run(strategy, space, 32, seed=s) for s in range(10)]
        return [max(t.value or -math.inf for t in table) for table in tables]

    ours, theirs = best(Bayes(drawn=8, bred=8)), best(Prior())
    assert sum(a > b for a, b in zip(ours, theirs, strict=True)) >= 9
    assert np.mean(ours) - np.mean(theirs) > 0.3


@pytest.mark.parametrize("make", BOTH)
def test_a_fresh_process_proposes_the_same(
    make: type[Bayes] | type[BayesEvolution], space: Frame
) -> None:
    used = make()
    table = tuple(run(used, space, 15))
    for number in (15, 16):
        one, two = (
            s.propose(space, table, maximize=True, seed=0, number=number, redraw=0)
            for s in (used, make())
        )
        assert one == two
        assert one[1].startswith(("gp: ", "forest: "))


@pytest.mark.parametrize("make", BOTH)
def test_minimising_goes_down(make: type[Bayes] | type[BayesEvolution], space: Frame) -> None:
    down = run(make(), space, 24, maximize=False)
    assert min(t.value or 0.0 for t in down[12:]) < min(t.value or 0.0 for t in down[:12])
    assert np.mean([t.value for t in down[12:]]) < np.mean([t.value for t in down[:12]])


@pytest.mark.parametrize("make", BOTH)
def test_tables_that_teach_nothing_are_survived(
    make: type[Bayes] | type[BayesEvolution], space: Frame
) -> None:
    table = tuple(run(Prior(), space, 20))
    failed = tuple(replace(t, status="oom", value=None) for t in table)
    for rows in (table[:1], failed, tuple(replace(t, value=0.5) for t in table)):
        found, _ = make().propose(space, rows, maximize=True, seed=0, number=20, redraw=0)
        assert found.text


def test_what_fails_is_avoided(space: Frame) -> None:
    def value(candidate: Candidate) -> float:
        return math.nan if "silu" in candidate.text else worth(candidate)

    rows = run(Bayes(), space, 40, value=value)
    first, last = rows[:16], rows[-16:]
    assert sum(t.status == "nan" for t in last) < sum(t.status == "nan" for t in first)


def _trial(number: int, *points: float, status: str = "ok") -> TrialRecord:
    value = points[-1] if points else None
    curves = {"val_acc": points} if points else {}
    return TrialRecord(number, status, value=value, curves=curves)  # type: ignore[arg-type]


def test_a_pruned_trial_is_measured_at_its_own_age() -> None:
    """The third was best at epoch 1 though its last value is the lowest; the fourth lost there."""
    trials = [
        _trial(0, 0.3, 0.6, 0.9),
        _trial(1, 0.2, 0.5, 0.8),
        _trial(2, 0.4, status="pruned"),
        _trial(3, 0.1, status="pruned"),
        _trial(4, status="nan"),
    ]
    assert list(scores(trials, True)) == pytest.approx([0.7, 0.5, 0.9, 0.3, 0.1])
    assert list(scores(trials, False)) == pytest.approx([0.5, 0.7, 0.3, 0.9, 0.1])


def test_expected_improvement_is_its_closed_form() -> None:
    draws = np.random.default_rng(0).normal(0.3, 0.8, 400_000)
    expected = np.maximum(draws - 0.5, 0).mean()
    found = improvement(np.asarray([0.3, 0.9]), np.asarray([0.8, 0.0]), 0.5)
    assert found[0] == pytest.approx(expected, abs=2e-3)
    assert found[1] == pytest.approx(0.4)


def test_features_are_equal_in_another_order_of_questions(space: Frame) -> None:
    rows = run(Prior(), space, 6)
    one, two = Featurizer(space), Featurizer(space)
    there = {t.hash: one(t.text, t.hash, t.trace) for t in rows}
    assert {t.hash: two(t.text, t.hash, t.trace) for t in reversed(rows)} == there


@pytest.mark.parametrize("name", ["vision", "lm", "attention"])
def test_the_tree_of_a_draw_or_child_is_what_its_text_says_and_has_its_features(name: str) -> None:
    source, task = resolve(name)
    assert task is not None
    open_space = frame(source.text, find_task(task).interface, max_nodes=60)
    rng = random.Random(0)
    drawn = [sample(open_space, rng) for _ in range(8)]
    traces = [c.trace for c in drawn[:2]]
    drawn += [breed(open_space, "crossover", traces, rng)[0] for _ in range(4)]
    one, two = Featurizer(open_space), Featurizer(open_space)
    for found in drawn:
        assert found.closed == parse(found.text)
        told = one(found.text, found.hash, found.trace, found.closed)
        assert told == two(found.text, found.hash, found.trace)


def test_features_count_ops_paths_subtrees_and_choices(space: Frame) -> None:
    text = "conv2d(dim=4, kernel=5, stride=2) >> relu >> relu >> gelu >> head"
    found = Featurizer(space)(text, "some id", {"/net/1/cell": 0, "/net/2/cell": 0, "let:w": 0})
    assert found["op:relu"] == found["arg:conv2d.kernel=5"] * 2 == 2
    assert found["path:relu>relu"] == found["path:relu>relu>gelu"] == 1
    assert found["pick:cell=0"] == 2
    assert found["at:/net/1/cell=0"] == 1
    heights = [sum(n for name, n in found.items() if name.startswith(f"wl{h}:")) for h in (0, 1, 2)]
    assert heights == [6, 6, 6]
    # The two relus are alike alone, but not with what stands before them.
    assert sorted(n for name, n in found.items() if name.startswith("wl0:"))[-1] == 2
    assert all(n == 1 for name, n in found.items() if name.startswith("wl1:"))


def test_both_have_a_name() -> None:
    assert isinstance(find("bayes"), Bayes)
    assert isinstance(find("bayes_evolution"), BayesEvolution)


def test_a_long_table_is_fitted_anew_for_every_hundredth_of_it_and_a_short_one_each_time() -> None:
    table = [_trial(n, float(n % 37)) for n in range(400)]

    def last(length: int) -> int:
        return Model().rows(table[:length], maximize=True)[-1].number

    assert [last(n) for n in (150, 151, 199)] == [149, 150, 198]
    assert [last(n) for n in (300, 301, 302, 303)] == [299, 299, 299, 302]


def test_the_process_is_the_one_of_the_textbook() -> None:
    rng = np.random.default_rng(0)
    rows = [{f"op:{j}": float(v) for j, v in enumerate(r)} for r in rng.integers(0, 4, (30, 5))]
    targets = normal(np.asarray([sum(r.values()) for r in rows]) / 20)
    columns = Columns(rows)
    found = Gp(columns, columns.matrix(rows), targets, 0)
    x = np.log1p(columns.matrix(rows))
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
    r = math.sqrt(5) * np.linalg.norm(x[:, None] - x[None], axis=2)
    y = targets - targets.mean()
    best = -math.inf
    for length in (0.35, 0.7, 1.4):
        near = (1 + r / length + (r / length) ** 2 / 3) * np.exp(-r / length)
        for noise in (0.03, 0.1, 0.3, 1.0):
            kernel = near + noise * np.eye(30)
            scale = y @ np.linalg.solve(kernel, y) / 30
            likelihood = -15 * math.log(scale) - 0.5 * np.linalg.slogdet(kernel)[1]
            if likelihood > best:
                best = likelihood
                mean = targets.mean() + near @ np.linalg.solve(kernel, y)
                spread = 1 - np.diag(near @ np.linalg.solve(kernel, near))
                deviation = np.sqrt(np.maximum(spread, 1e-12) * scale)
    np.testing.assert_allclose(found.predict(rows), (mean, deviation), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", BOTH)
def test_the_surrogate_learns_from_the_proxy_and_asks_for_eight(
    make: type[Bayes] | type[BayesEvolution], space: Frame
) -> None:
    """The proxy is the value itself, so the best of the scored is what should be proposed."""
    asked: dict[str, float] = {}

    def score(text: str, hash_: str) -> float:
        asked[hash_] = worth(candidate_of(text, space.typing.interface))
        return asked[hash_]

    table = tuple(
        replace(t, metrics={"proxy": t.value} if t.number % 5 and t.value is not None else {})
        for t in run(Prior(), space, 40)
    )
    found = [
        s.propose(space, table, maximize=True, seed=0, number=40, redraw=0)[0]
        for s in (make(score=score), make(score=score))
    ]
    assert found[0] == found[1]
    assert len(asked) == 8
    ranked = sorted(asked, key=lambda h: -asked[h])
    assert found[0].hash in ranked[:2]


def test_without_a_proxy_in_the_table_none_is_asked_for(space: Frame) -> None:
    def score(text: str, hash_: str) -> float:
        raise AssertionError

    table = tuple(run(Prior(), space, 20))
    ask = {"maximize": True, "seed": 0, "number": 20, "redraw": 0}
    one, two = (s.propose(space, table, **ask) for s in (Bayes(score=score), Bayes()))  # type: ignore[arg-type]  # by name
    assert one == two
