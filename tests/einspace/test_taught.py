"""Draws under learned weights: exact within the budget, from what the space's own were built on."""

import math
import random
from collections import Counter

import pytest
from scipy.stats import chi2  # type: ignore[import-untyped]  # no stubs

import einspace.draws
from einspace.candidates import Frame, frame, taught_sample
from einspace.draws import sites_of, sums_of, taught
from einspace.interface import Interface
from einspace.space_facts import facts_of
from grammar.estimate import Estimate, Relaxed, Walked
from grammar.exact import Drawn, Exact
from grammar.learn import Table, weighted
from grammar.sequential import Sequential
from ops.spec import scores, seq

TASK = Interface({"x": seq(6, 8)}, scores(4))
FLAT = "({id | 0.3: linear(dim=8|16) | residual(relu)} * 1..3) >> head"
DEEP = (
    "net = m >> head; "
    "m = 0.4: relu | 0.3: linear(dim=8|16|32) | 0.2: m >> m | 0.1: fork(m, m) >> add;"
)


def turned(place: Frame, by: float) -> Table:
    """Other weights than the space's own: every second alternative is likelier."""
    sites, table = sites_of(place), []
    for start, end in zip(sites.starts, sites.starts[1:], strict=False):
        raw = [w * (by if i % 2 else 1.0) for i, w in enumerate(sites.own[start:end])]
        table += [w / sum(raw) for w in raw]
    return tuple(table)


def distance(place: Frame, table: Table, count: int) -> tuple[float, int]:
    """Chi-square of draws against the exact distribution of the weighted space, and its degrees."""
    space = weighted(sites_of(place), table)
    exact = Exact(space, facts_of(place), place.limits)
    source, rng = taught(place, table), random.Random(3)
    drawn = Counter(source.draw(rng) for _ in range(count))
    shares = {}
    for picks in drawn:
        found = exact.replay(Drawn(picks, 0.0), place.typing)
        shares[picks] = count * math.exp(found.log_prob - exact.log_mass())
    often = [d for d in drawn if shares[d] >= 10]
    rest = count - math.fsum(shares[d] for d in often)
    square = sum((drawn[d] - shares[d]) ** 2 / shares[d] for d in often)
    if rest > 1:
        square += (count - sum(drawn[d] for d in often) - rest) ** 2 / rest
    return square, len(often)


def test_draws_from_a_forest_follow_the_learned_weights_and_the_budget() -> None:
    place = frame(FLAT, TASK, max_params=300)
    assert isinstance(sums_of(place), Exact)
    square, degrees = distance(place, turned(place, 4.0), 4_000)
    assert degrees > 10
    assert square < chi2.ppf(0.9999, degrees)


def test_draws_over_budget_are_dropped_where_the_budget_is_not_summed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(einspace.draws, "CAP", 130)
    place = frame(FLAT, TASK, max_params=300, max_flops=3_000)
    sums = sums_of(place)
    assert isinstance(sums, Estimate)
    assert isinstance(sums.proposer, Relaxed)
    square, degrees = distance(place, turned(place, 4.0), 4_000)
    assert degrees > 10
    assert square < chi2.ppf(0.9999, degrees)


def test_sequential_draws_follow_the_learned_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(einspace.draws, "CAP", 40)
    place = frame(DEEP, TASK, max_nodes=7, max_params=600)
    sums = sums_of(place)
    assert isinstance(sums, Estimate)
    assert isinstance(sums.proposer, Sequential)
    square, degrees = distance(place, turned(place, 0.5), 2_000)
    assert degrees > 10
    assert square < chi2.ppf(0.9999, degrees)


def test_walked_draws_follow_the_learned_weights() -> None:
    place = frame("net = same(m) * 2 >> head; m = 0.6: {relu | gelu} | m >> m;", TASK, max_nodes=8)
    held = place.held
    held.sums = Estimate(place.space, place.limits, Walked(place.space, place.typing, place.limits))
    square, degrees = distance(place, turned(place, 0.5), 600)
    assert degrees > 4
    assert square < chi2.ppf(0.9999, degrees)


def test_a_taught_draw_is_a_candidate_of_the_frame() -> None:
    place = frame(FLAT, TASK, max_params=300)
    exact = sums_of(place)
    assert isinstance(exact, Exact)
    rng = random.Random(1)
    for _ in range(5):
        drawn = taught_sample(place, taught(place, turned(place, 2.0)), rng)
        assert drawn.params <= 300
        assert drawn.trace
        assert drawn.log_prob < 0
