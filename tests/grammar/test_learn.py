# ruff: noqa: E501  (a space a line reads better than wrapped ones)
"""Learned weights: counts against enumeration, EM against its promise, text against the tree."""

import math
import random
from collections import defaultdict
from collections.abc import Sequence

import pytest

from grammar.derive import derivations, derive
from grammar.domain import Int, Signature
from grammar.errors import SpaceError
from grammar.exact import Drawn, Exact
from grammar.learn import (
    Forest,
    Sites,
    best_weights,
    counted,
    expected,
    fit,
    forest,
    sites,
    summed,
    tamed,
    weighted,
)
from grammar.parse import parse
from grammar.pcfg import check_space
from grammar.show import show
from grammar.walk import First, Limits, Sample, refuse
from grammar.writeout import written_out
from tests.grammar.test_exact import SIGNATURES, SMALL, SPACES, Widths, enumerate_all


def of(text: str) -> Sites:
    return sites(parse(text), SIGNATURES)


def reweighted(place: Sites, rng: random.Random) -> tuple[float, ...]:
    """Random weights of every choice."""
    raw = [rng.uniform(0.2, 1.0) for _ in place.own]
    return best_weights(place, tuple(raw), 1e-12)


def inner(first: Sequence[float], second: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", SPACES)
def test_expected_counts_equal_those_of_enumeration(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the space's own weights and under others, which the forest was not made with."""
    limits = Limits(nodes=3, depth=7) if "recursion" in name else Limits()
    place = of(SPACES[name])
    trees = forest(place, Widths(), limits)
    every = enumerate_all(SPACES[name], limits, monkeypatch)
    rows = [counted(place, found.trace, Widths()) for found in every]
    own = [math.log(v) for v in place.own]
    rests = [f.log_prob - inner(n, own) for f, n in zip(every, rows, strict=True)]
    for table in (place.own, reweighted(place, random.Random(3))):
        logs = [math.log(w) for w in table]
        masses = [math.exp(rest + inner(n, logs)) for rest, n in zip(rests, rows, strict=True)]
        log_prob, counts = expected(trees, table)
        total = math.fsum(masses)
        assert log_prob == pytest.approx(math.log(total), abs=1e-10)
        columns = zip(*rows, strict=True)
        means = [inner(column, masses) / total for column in columns]
        assert counts == pytest.approx(means, abs=1e-10)
        assert max(counts) > 0


@pytest.mark.parametrize("name", SPACES)
def test_traces_hold_where_ranges_are_written_out(name: str) -> None:
    space, limits = parse(SPACES[name]), SMALL if "recursion" in name else Limits()
    place, rng = of(SPACES[name]), random.Random(0)
    for _ in range(5):
        found, _ = derive(space, Sample(rng), Widths(), limits)
        counts = counted(place, found.trace, Widths())
        log_prob = sum(n * math.log(v) for n, v in zip(counts, place.own, strict=True))
        assert log_prob == pytest.approx(found.log_prob, abs=1e-12)


def test_what_is_shared_is_counted_once_a_choice() -> None:
    place = of("net = c >> (c >> same({keep | half})) * 2 >> e >> e; fix c = 0.5: keep | odd; "
               "let e = 0.2: keep | half;")  # fmt: skip
    found = next(derivations(place.space, First(), Widths()))
    assert counted(place, found.trace, Widths()) == (1.0, 0.0, 1.0, 0.0, 1.0, 0.0)


def test_one_rule_in_several_contexts_has_one_weight_an_alternative() -> None:
    place = of("net = a >> pre(f=a) >> pre(f=keep); pre(f) = f >> a; a = keep | half;")
    found = next(derivations(place.space, First(), Widths()))
    assert counted(place, found.trace, Widths()) == (4.0, 0.0)


def test_ranges_braces_and_counts_are_learned() -> None:
    place = of("{wide(dim=4..6) | wide(dim={1: 3 | 2: 8}) * 1..2}")
    assert show(weighted(place, reweighted(place, random.Random(1)))).count(":") == 9


def test_a_trace_of_another_space_is_refused() -> None:
    with pytest.raises(SpaceError, match="does not lead through this space"):
        counted(of("{keep | half} >> {keep | half}"), {"/0": 0, "/1": 2}, Widths())


TRUE = (
    "net = 0.3: keep >> rest | 0.7: wide(dim={0.1: 4 | 0.6: 6 | 0.3: 8}) >> rest * {0.8: 1 | 0.2: 2};"
    "rest = 0.25: keep | 0.75: keep >> keep;"
)
FLAT = "net = keep >> rest | wide(dim=4|6|8) >> rest * 1..2;rest = keep | keep >> keep;"


def test_the_weights_behind_twenty_thousand_draws_are_recovered() -> None:
    source, target = of(TRUE), of(FLAT)
    exact, rng = Exact(source.space, Widths()), random.Random(11)
    seen: dict[tuple[int, ...], int] = defaultdict(int)
    for _ in range(20_000):
        seen[exact.sample(rng).picks] += 1
    tables = []
    for picks, times in seen.items():
        drawn = exact.replay(Drawn(picks, 0.0), Widths())
        tables.append([times * n for n in counted(target, drawn.trace, Widths())])
    found = fit(target, summed(tables, len(target.own)), strength=1.0)
    assert found.weights == pytest.approx(source.own, abs=0.012)
    assert len(set(found.weights)) > 4


class Only(Widths):
    """`Widths` of the architectures that end with one width."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted

    def finish(self, value: object, site: object) -> object:
        if value != self.wanted:
            raise refuse("another architecture")
        return value


AMBIGUOUS = (
    "net = {a | wide(dim=b)} >> c; a = half | keep | wide(dim=2); b = 2 | 4 | 8;"
    "c = {keep | half} >> {keep | half};"
)


def hidden_of(place: Sites) -> list[tuple[Forest, float]]:
    return [
        (forest(place, Only(w), Limits()), times)
        for w, times in ((8, 50.0), (4, 30.0), (2, 4.0), (1, 9.0))
    ]


@pytest.mark.parametrize("strength", [0.01, 1.0, 30.0])
def test_the_objective_never_falls_and_rises_from_the_own_weights(strength: float) -> None:
    place = of(AMBIGUOUS)
    known = tuple(float(i % 3) for i in range(len(place.own)))
    found = fit(place, known, hidden_of(place), strength=strength)
    pairs = list(zip(found.objective, found.objective[1:], strict=False))
    assert len(pairs) > 3
    assert all(after >= before - 1e-9 for before, after in pairs)
    assert found.objective[-1] > found.objective[0] + 1
    assert found.objective[-1] - found.objective[-2] < 1e-9


def test_where_one_derivation_is_possible_text_and_trace_teach_the_same() -> None:
    place = of("{keep | half | wide(dim=2)} >> wide(dim=5|7)")
    whole = Exact(place.space, Widths())
    draws = [whole.replay(whole.uniform(random.Random(i)), Widths()) for i in range(6)]
    known = summed([counted(place, d.trace, Widths()) for d in draws], len(place.own))
    forests = []
    for drawn in draws:
        text = show(drawn.closed)
        alone = [e for e in derivations(place.space, First(), Widths()) if show(e.closed) == text]
        assert len(alone) == 1
        table = counted(place, alone[0].trace, Widths())
        places = [i for i, n in enumerate(table) if n]
        rows = [((-1, 0.0, ()),)]
        for i in places:
            rows.append(((i, 0.0, (len(rows) - 1,)),))
        forests.append((Forest(tuple(rows)), 1.0))
    nothing = (0.0,) * len(place.own)
    assert fit(place, nothing, forests).weights == pytest.approx(fit(place, known).weights)


def test_the_prior_is_worth_as_many_observations_as_its_strength() -> None:
    place = of("{0.2: keep | 0.8: half}")
    assert best_weights(place, (3.0, 0.0), 2.0) == pytest.approx((3.4 / 5, 1.6 / 5))
    assert best_weights(place, (0.0, 0.0), 2.0) == pytest.approx((0.2, 0.8))


@pytest.mark.parametrize("strength", [0.0, -1.0, math.nan, math.inf])
def test_a_strength_that_is_not_positive_is_refused(strength: float) -> None:
    place = of("{keep | half}")
    with pytest.raises(SpaceError, match="strength"):
        fit(place, place.own, strength=strength)


@pytest.mark.parametrize("name", SPACES)
def test_the_learned_text_is_the_learned_space(name: str) -> None:
    place = of(SPACES[name])
    table = reweighted(place, random.Random(5))
    space = weighted(place, table)
    again = parse(show(space))
    assert again == space
    assert sites(again, SIGNATURES).own == pytest.approx(table, rel=1e-5)


def test_a_let_that_was_a_weight_goes_and_what_was_not_taught_stays() -> None:
    place = of(
        "net = a >> b; let p = 0.4; let d = 4; a = p: keep | wide(dim=d); b = 0.9: keep | half;"
    )
    space = weighted(place, (0.5, 0.5, *place.own[2:]))
    assert show(space) == (
        "net = a >> b;\nlet d = 4;\na = 0.5: keep | 0.5: wide(dim=d);\nb = 0.9: keep | half;"
    )
    check_space(space, SIGNATURES)
    kept = weighted(place, place.own)
    assert kept == place.space


def test_weights_that_would_never_end_are_moved_towards_the_own_ones() -> None:
    place = of("m = 0.6: keep | 0.4: m >> m;")
    table, share = tamed(place, (0.3, 0.7))
    assert share == 0.25
    check_space(weighted(place, table), SIGNATURES)
    assert tamed(place, (0.7, 0.3)) == ((0.7, 0.3), 1.0)


def test_a_range_whose_points_differ_between_its_uses_stays_a_range() -> None:
    logs = Signature("log", {"n": Int(1, 64, log=True)})
    lins = Signature("lin", {"n": Int(1, 64)})
    words = {"log": logs, "lin": lins}
    text = "net = log(n=a) >> lin(n={}) >> lin(n=1..2); let a = 2..4; p(f=1..3) = lin(n=f) * f;"
    made = show(written_out(parse(text.format("a") + "p(f=4..5)"), words))
    assert "let a = 2..4;" in made
    assert "lin(n=1 | 2)" in made
    assert "p(f=1 | 2 | 3)" in made
    assert "p(f=4 | 5)" in made
    assert "let a = 2 | 4;" in show(written_out(parse(text.format("3")), words))
