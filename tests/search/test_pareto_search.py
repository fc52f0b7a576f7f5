"""Searches with several objectives: a front, the same twice, resumed, and halved by rank."""

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from einspace.candidates import frame
from einspace.dominance import fronts
from einspace.result import TrialRecord
from grammar.errors import StudyError
from search.halving import goes_on, rungs
from search.latency import decode_latency, latency
from search.objectives import objectives_of
from search.records import search_record
from search.setup import setup_of
from search.strategies import generator
from search.strategies.pareto import Pareto, leading
from search.strategies.prior import Prior
from search.study import create, open_ledger
from search.summary import lines, summary
from search.tasks import find as find_task
from tests.search.small_search import SETUP, SPACE, TAGS, ledger, use_runs, work

TWO = ("acc", "params")


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return use_runs(monkeypatch, tmp_path)


def _outcome(table: tuple[TrialRecord, ...]) -> list[tuple[object, ...]]:
    """What must be the same twice: all but the clocks."""
    return [(t.number, t.status, t.text, t.values, t.params, t.origin, t.curves) for t in table]


def test_two_objectives_end_in_a_front_the_same_whole_or_in_parts() -> None:
    changes = {"epochs": 4, "min_epochs": 3, "objectives": TWO, "pruner": "halving"}
    for name, totals in (("whole", (24,)), ("parts", (7, 24))):
        ledger(name, strategy="pareto", **changes)
        for total in totals:
            work(name, total)
    record = search_record(open_ledger("whole"))
    assert _outcome(record.trials) == _outcome(open_ledger("parts").table())
    assert record.objectives == TWO
    assert set(record.counts()) == {"ok", "pruned"}
    assert any(not t.origin.startswith("prior") for t in record.trials)
    for trial in record.trials:
        assert trial.values == (trial.value, trial.metrics["params"])
        assert trial.metrics["epochs"] == (4 if trial.status == "ok" else 3)
    done = [t for t in record.trials if t.status == "ok"]
    members = fronts([(-(t.value or 0.0), t.values[1]) for t in done])[0]
    assert {t.number for t in record.front()} == {done[i].number for i in members}
    facts = summary(record, {})
    assert [row["trial"] for row in facts["front"]] == [t.number for t in record.front()]
    assert facts["best"]["trial"] == record.front()[0].number
    assert any(line.startswith("Pareto front of acc, params:") for line in lines(facts))


def test_each_decision_at_a_rung_can_be_read_from_the_study() -> None:
    ledger(epochs=4, min_epochs=3, objectives=TWO, pruner="halving", strategy="prior")
    work(trials=12)
    opened = open_ledger("small")
    rung = opened.rung(3)
    assert len(rung) == 12
    for trial in opened.table():
        seen = {n: p for n, p in rung.items() if n <= trial.number}
        assert (trial.status == "ok") == goes_on(trial.number, seen)


def test_measured_costs_are_objectives() -> None:
    goals = ("acc", "latency", "decode_latency", "peak_bytes", "state_bytes", "flops")
    ledger(epochs=4, min_epochs=3, objectives=goals, pruner="halving", strategy="pareto")
    work(trials=4)
    opened = open_ledger("small")
    assert len(opened.rung(3)) == 4
    for trial in opened.table():
        assert trial.values == (trial.value, *(trial.metrics[g] for g in goals[1:]))
        assert 1e-6 < trial.metrics["latency"] < 1.0
        assert 1e-6 < trial.metrics["decode_latency"] < 1.0


def test_without_a_pruner_every_trial_trains_to_its_end() -> None:
    for name, goals in (("one", ()), ("two", TWO)):
        ledger(name, epochs=4, min_epochs=3, objectives=goals, pruner="none", strategy="prior")
        work(name, 3)
        assert search_record(open_ledger(name)).counts() == {"ok": 3}


def test_one_objective_may_be_halved_by_optuna() -> None:
    ledger(epochs=4, min_epochs=3, pruner="halving", strategy="prior")
    work(trials=9)
    record = search_record(open_ledger("small"))
    assert set(record.counts()) == {"ok", "pruned"}
    assert all(t.values == () for t in record.trials)
    assert "front" not in summary(record, {})


def test_other_objectives_are_another_question() -> None:
    ledger(objectives=TWO)
    with pytest.raises(StudyError, match="objectives was params, now params,flops"):
        ledger(objectives=(*TWO, "flops"))
    with pytest.raises(StudyError, match="objectives was params, now none"):
        create(replace(SETUP, objectives=()), TAGS)
    assert open_ledger("small").setup.objectives == TWO


@pytest.mark.parametrize(
    ("asked", "said", "hint"),
    [
        ("acc,parms", "no objective 'parms'", "did you mean params"),
        ("params,acc", "not the task's metric 'acc'", "--objective acc,params"),
        ("acc,params,params", "stands twice", "once"),
        ("", "no objective ''", "state_bytes"),
    ],
)
def test_a_wrong_objective_is_told_what_there_is(asked: str, said: str, hint: str) -> None:
    with pytest.raises(StudyError, match=said) as error:
        objectives_of(asked, "acc")
    assert hint in error.value.hint


def test_several_objectives_are_searched_by_pareto_and_halved() -> None:
    def setup(**more: str) -> tuple[str, str]:
        asked = setup_of(
            SPACE,
            task="digits",
            strategy=None,
            seed=0,
            seed_archs=(),
            epochs=None,
            study="s",
            limits=(None, None, None),
            **more,
        )
        return asked.strategy, asked.pruner

    assert setup() == ("evolution", "hyperband")
    assert setup(objectives="acc") == ("evolution", "hyperband")
    assert setup(objectives="acc, params") == ("pareto", "halving")
    with pytest.raises(StudyError, match="hyperband compares trials by one number"):
        setup(objectives="acc,params", pruner="hyperband")
    with pytest.raises(StudyError, match="no pruner 'halvin'"):
        setup(pruner="halvin")


def test_rungs_lie_a_factor_of_three_apart_below_the_last_epoch() -> None:
    assert rungs(3, 12) == (3, 9)
    assert rungs(1, 27) == (1, 3, 9)
    assert rungs(0, 2) == (1,)
    assert rungs(4, 4) == ()


def test_exactly_a_third_of_a_full_rung_goes_on_and_no_worse_trial_than_a_stopped_one() -> None:
    rng = random.Random(0)
    for size in (1, 2, 3, 7, 30, 60):
        rung = {n: (rng.random(), rng.random(), rng.random()) for n in range(size)}
        kept = {n for n in rung if goes_on(n, rung)}
        assert len(kept) == max(1, size // 3)
        ranks = {n: r for r, f in enumerate(fronts(list(rung.values()))) for n in f}
        assert max(ranks[n] for n in kept) <= min(
            (ranks[n] for n in rung if n not in kept), default=math.inf
        )


def test_synthetic_curves_are_stopped_early_and_the_front_survives() -> None:
    """27 trials whose error falls to a floor; every third is better in error at the same size."""
    left: dict[int, dict[int, tuple[float, float]]] = {}
    ended = {}
    for number in range(27):
        floor = (0.1 if number % 3 == 0 else 0.5) + 0.001 * (26 - number)
        size = 100.0 + number % 3
        for epoch in rungs(1, 27):
            rung = left.setdefault(epoch, {})
            rung[number] = (floor + 1.0 / epoch, size)
            if not goes_on(number, rung):
                ended[number] = epoch
                break
        else:
            ended[number] = 27
    reached = [sum(e >= rung for e in ended.values()) for rung in (1, 3, 9)]
    assert reached[0] == 27
    assert reached[0] > reached[1] >= reached[2] > 0
    assert all(ended[n] == 1 for n in ended if n % 3)


def test_a_newcomer_at_the_better_end_of_the_front_goes_on() -> None:
    rung = {0: (-0.3, 170.0), 1: (-0.5, 300.0)}
    assert goes_on(1, rung)
    assert not goes_on(2, {**rung, 2: (-0.2, 100.0)})


def test_the_order_of_arrival_at_a_rung_takes_no_part() -> None:
    rung = {n: (float(n % 4), float(n % 5)) for n in range(20)}
    turned = dict(reversed(rung.items()))
    assert [goes_on(n, rung) for n in rung] == [goes_on(n, turned) for n in rung]


def _rows(points: list[tuple[float, float]]) -> list[TrialRecord]:
    return [
        TrialRecord(n, "ok", str(n), str(n), v[0], trace={"x": 1}, values=v)
        for n, v in enumerate(points)
    ]


def test_the_population_is_the_best_by_rank_then_by_crowding() -> None:
    points = [(0.5, 9.0), (0.9, 10.0), (0.1, 1.0), (0.5, 5.0), (0.52, 5.2), (0.4, 3.0)]
    rows = _rows(points)
    found = [m.trial.number for m in Pareto(population=4).members(rows, maximize=True)]
    assert found[:2] == [1, 2]  # the ends of the front
    assert 0 not in found  # dominated by 3
    lost = [
        replace(rows[0], trace={}),
        replace(rows[1], status="oom"),
        replace(rows[2], value=None, values=()),
        replace(rows[3], values=(0.5, math.nan)),
        rows[5],
    ]
    assert [m.trial.number for m in Pareto().members(lost, maximize=True)] == [5]


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_first_fronts_found_by_peeling_are_those_of_the_whole_sort(axes: int) -> None:
    rng = random.Random(axes)
    points = [tuple(float(rng.randrange(12)) for _ in range(axes)) for _ in range(150)]
    for count in (1, 7, 20, 150):
        kept: list[int] = []
        for members in fronts(points):
            kept += members if len(kept) < count else []
        assert leading(points, count) == sorted(kept)


def test_with_one_objective_the_population_is_the_best_ever() -> None:
    rows = [TrialRecord(n, "ok", value=float(n * 7 % 20), trace={"x": 1}) for n in range(20)]
    for maximize in (True, False):
        found = Pareto(population=5).members(rows, maximize=maximize)
        best = sorted(rows, key=lambda t: t.value or 0.0, reverse=maximize)[:5]
        assert [m.trial for m in found] == best


def test_children_come_from_tournaments_and_depend_on_table_seed_and_number_alone() -> None:
    space = frame(SPACE, find_task("digits").interface)
    rows = []
    for n in range(24):
        drawn, _ = Prior().propose(space, (), maximize=True, seed=0, number=n, redraw=0)
        rows.append(
            TrialRecord(
                n, "ok", drawn.text, drawn.hash, n / 100, trace=drawn.trace, values=(n / 100, 1.0)
            )
        )

    def propose(seed: int, size: int = 24, redraw: int = 0) -> list[tuple[str, str]]:
        found = [
            Pareto().propose(space, rows[:size], maximize=True, seed=seed, number=n, redraw=redraw)
            for n in range(24, 60)
        ]
        return [(c.text, origin) for c, origin in found]

    first = propose(0)
    assert propose(0) == first
    assert propose(1) != first
    assert {origin for _, origin in propose(0, size=19)} == {"prior"}
    assert {origin for _, origin in propose(0, redraw=10)} == {"prior"}
    kinds = [origin.split(" of ")[0] for _, origin in first]
    assert {"crossover", "mutation"} <= set(kinds)
    members = Pareto().members(rows, maximize=True)
    won = [Pareto().parent(members, generator(0, n, 0)).trial.number for n in range(200)]
    assert sum(won) / 200 > sum(m.trial.number for m in members) / len(members) + 1


def test_latency_is_the_median_pass_in_evaluation_mode() -> None:
    import torch
    from torch import nn

    seen: list[bool] = []

    class Slow(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(self.training or torch.is_grad_enabled())
            end = len(seen) % 7 == 0 and 20
            for _ in range(end):
                torch.ones(300, 300) @ torch.ones(300, 300)
            return x

    model = Slow().train()
    found = latency(model, torch.zeros(1, 3))
    assert 0 < found < 1e-3  # one pass in seven is slow, and a median does not see it
    assert not any(seen)
    assert model.training
    assert len(seen) == 26


def test_decoding_is_timed_by_its_step_and_without_one_by_the_whole_pass() -> None:
    import torch

    from einspace.compile import compile_text
    from einspace.interface import Interface
    from einspace.load import load
    from ops.spec import seq, tokens

    def model(text: str) -> torch.nn.Module:
        language = Interface({"x": tokens(512, 8)}, target=seq(512, 8))
        return load(compile_text(text, language).source)()

    x = torch.zeros(1, 512, dtype=torch.long)
    causal = model("embed(dim=128) >> residual(gru) >> head")
    assert decode_latency(causal, x) < latency(causal, x) / 5
    whole = model("embed(dim=128) >> softmax_attn(heads=2) >> head")
    assert not hasattr(whole, "step")
    assert decode_latency(whole, x) > latency(whole, x) / 5


@pytest.mark.gpu
def test_on_cuda_a_captured_pass_is_timed_and_one_that_cannot_be_captured_too() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    layers = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(50))).cuda()
    x = torch.zeros(1, 64, device="cuda")
    captured = latency(layers, x)

    class Synced(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = layers(x)
            assert float(y.sum()) < 1e9
            return y

    assert captured < latency(Synced(), x) / 2
