"""Draws from a frame: exact or estimated, always within budget, never twice built."""

import math
import random
import subprocess
import sys
import time
from collections import Counter

import pytest
from scipy.stats import chi2  # type: ignore[import-untyped]  # no stubs

import einspace.draws
from einspace.candidates import frame, sample, uniform
from einspace.compile import compile_text
from einspace.draws import sums_of
from einspace.frame import Frame
from einspace.interface import Interface
from einspace.space_facts import exact_of
from einspace.space_report import space_report
from grammar.errors import SpaceError
from grammar.estimate import Estimate, Relaxed, Walked
from grammar.exact import Exact
from grammar.sequential import Sequential
from ops.spec import image, scores, seq
from search.tasks import find

PICTURE = Interface({"x": image(3, 64, 64)}, scores(10))
TASK = Interface({"x": seq(6, 8)}, scores(4))


def estimated(name: str, monkeypatch: pytest.MonkeyPatch, face: Interface, **limits: int) -> Frame:
    """A frame whose exact sums are taken to be too large."""
    monkeypatch.setattr(einspace.draws, "CAP", 40)
    return frame(name, face, **limits)


def test_the_estimate_of_einspace_agrees_with_its_exact_mass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = {"max_nodes": 4, "max_params": 10**6}
    sums = sums_of(estimated("einspace", monkeypatch, PICTURE, **limits))
    assert isinstance(sums, Estimate)
    assert isinstance(sums.proposer, Sequential)
    exact = exact_of(frame("einspace", PICTURE, **limits))
    assert sums.error() < 0.01
    assert abs(math.expm1(sums.log_mass() - exact.log_mass())) < 4 * sums.error()
    total = sum(exact.counts().values())
    assert sum(sums.counts().values()) == pytest.approx(total, rel=0.3)
    assert sums.entropy() == pytest.approx(exact.entropy(), rel=0.03)


def test_dropping_what_is_over_budget_leaves_exact_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "({id | linear(dim=8|16|32) | mlp} * 1..3) >> head"
    monkeypatch.setattr(einspace.draws, "CAP", 120)
    place = frame(text, TASK, max_params=700, max_flops=9_000)
    sums, exact = sums_of(place), exact_of(place)
    assert isinstance(sums, Estimate)
    assert isinstance(sums.proposer, Relaxed)
    assert abs(math.expm1(sums.log_mass() - exact.log_mass())) < 4 * sums.error() < 0.4
    rng = random.Random(3)
    drawn = Counter(sums.sample(rng).picks for _ in range(4_000))
    known = Counter(exact.sample(rng).picks for _ in range(4_000))
    both = [k for k in known if known[k] >= 40]
    square = sum((drawn[k] - known[k]) ** 2 / (drawn[k] + known[k]) for k in both)
    assert square < chi2.ppf(0.9999, len(both))


def test_sequential_draws_follow_the_conditioned_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Proposals alone do not: their chi-square is 120, where 43 is the limit."""
    text = (
        "net = m >> head; "
        "m = 0.4: relu | 0.3: linear(dim=8|16|32) | 0.2: m >> m | 0.1: fork(m, m) >> add;"
    )
    place = estimated(text, monkeypatch, TASK, max_nodes=7, max_params=600)
    sums, rng, n = sums_of(place), random.Random(1), 3_000
    assert isinstance(sums, Estimate)
    assert isinstance(sums.proposer, Sequential)
    mass = sums.log_mass() - exact_of(place).log_mass()
    drawn = Counter(sums.sample(rng) for _ in range(n))
    shares = {d: n * math.exp(d.log_prob + mass) for d in drawn}
    often = [d for d in drawn if shares[d] >= 10]
    rest = n - math.fsum(shares[d] for d in often)
    square = (n - sum(drawn[d] for d in often) - rest) ** 2 / rest
    square += sum((drawn[d] - shares[d]) ** 2 / shares[d] for d in often)
    assert len(often) > 10
    assert square < chi2.ppf(0.9999, len(often))


@pytest.mark.slow
def test_where_copies_share_recursion_the_plain_walk_draws() -> None:
    text = "net = same(m) * 3 >> head; m = 0.6: {relu | gelu | linear(dim=8)} | m >> m;"
    place = frame(text, TASK, max_nodes=90)
    sums = sums_of(place)
    assert isinstance(sums, Estimate)
    assert isinstance(sums.proposer, Walked)
    assert sums.log_mass() == pytest.approx(0, abs=0.1)
    assert sample(place, random.Random(0)).nodes <= 90


@pytest.mark.slow
def test_einspace_is_drawn_from_at_fifty_a_second_without_a_failure() -> None:
    place, rng = frame("einspace", PICTURE, max_params=10**6), random.Random(0)
    sums_of(place).log_mass()
    start = time.process_time()
    drawn = [sample(place, rng) for _ in range(200)]
    assert 200 / (time.process_time() - start) > 50
    assert max(d.params for d in drawn) <= 10**6
    assert len({d.hash for d in drawn}) > 150


def test_every_budget_holds_for_every_draw_of_einspace(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"max_nodes": 25, "max_params": 50_000, "max_flops": 10**7}
    monkeypatch.setattr(einspace.draws, "CAP", 1_000)
    place = frame("einspace", PICTURE, **limits, max_depth=9, max_memory=10**6)
    rng = random.Random(0)
    for _ in range(60):
        found = sample(place, rng)
        assert found.kind == "estimate"
        assert found.nodes <= 25
        totals = compile_text(found.text, PICTURE).totals
        assert totals.params == found.params <= 50_000
        assert totals.flops <= found.flops <= 10**7
        assert totals.depth <= 9
        assert totals.activation_bytes <= 10**6


def test_depth_and_memory_are_part_of_the_exact_sums() -> None:
    text = "({id | linear(dim=8|16) | residual(relu)} * 1..4) >> head"
    place = frame(text, TASK, max_depth=4, max_memory=900)
    assert isinstance(sums_of(place), Exact)
    rng = random.Random(0)
    deepest = 0
    for _ in range(200):
        totals = compile_text(sample(place, rng).text, TASK).totals
        assert totals.depth <= 4
        assert totals.activation_bytes <= 900
        deepest = max(deepest, totals.depth)
    assert deepest == 4


def test_sums_are_built_once_a_frame() -> None:
    place = frame("lm", find("shakespeare").interface)
    first = sums_of(place)
    sample(place, random.Random(0))
    assert sums_of(place) is first


@pytest.mark.slow
def test_the_same_seed_gives_the_same_draws_in_another_process() -> None:
    code = (
        "import random; from einspace.candidates import frame, sample;"
        "from einspace.interface import Interface; from ops.spec import image, scores;"
        "face = Interface({'x': image(3, 64, 64)}, scores(10)); rng = random.Random(4);"
        "place = frame('einspace', face, max_nodes=12, max_params=10**6);"
        "print([sample(place, rng).hash for _ in range(20)])"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
        ).stdout
        for seed in ("1", "2")
    ]
    assert told[0] == told[1]
    assert len(set(told[0].split())) > 10


def test_uniform_draws_have_the_size_that_is_asked_for() -> None:
    place, rng = frame("attention", find("mqar").interface), random.Random(0)
    assert {uniform(place, rng, 10).nodes for _ in range(20)} == {10}
    with pytest.raises(SpaceError, match="no derivation has 11 nodes"):
        uniform(place, rng, 11)


def test_uniform_draws_need_exact_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    place = estimated("einspace", monkeypatch, PICTURE, max_nodes=5)
    with pytest.raises(SpaceError, match="too large for draws that are equally likely"):
        uniform(place, random.Random(0))


def test_the_report_counts_derivations_and_architectures() -> None:
    report = space_report(frame("({id | linear(dim=8|16) | relu} * 1..2) >> head", TASK))
    assert report["kind"] == "exact"
    assert report["counts"] == {"2": "4", "3": "16"}
    assert report["derivations"] == "20"
    assert report["architectures"] == 13


@pytest.mark.slow
def test_100000_draws_follow_the_conditioned_distribution() -> None:
    text = "({id | 0.3: linear(dim=8|16) | residual(relu)} * 1..3) >> head"
    place = frame(text, TASK, max_params=300)
    sums, rng = sums_of(place), random.Random(11)
    drawn = Counter(sums.sample(rng) for _ in range(100_000))
    shares = {d: 1e5 * math.exp(d.log_prob) for d in drawn}
    assert len(drawn) == sum(sums.counts().values())
    square = sum((n - shares[d]) ** 2 / shares[d] for d, n in drawn.items())
    assert square < chi2.ppf(0.9999, len(drawn) - 1)


def test_names_that_leave_an_argument_and_heads_of_outputs_are_summed() -> None:
    leads = frame(
        "net = embed(dim=32) >> pre(f=softmax_attn(heads=2|4, causal) as lead) "
        ">> pre(f=echo_attn(heads=2|4, qk=@lead.q)) * 1..2 >> rms_norm >> head; "
        "pre(f) = residual(rms_norm >> f);",
        find("shakespeare").interface,
    )
    two = Interface({"x": image(3, 8, 8)}, outputs={"a": scores(3), "b": scores(5)})
    heads = frame("conv2d(dim=4|8, kernel=3) >> outputs(a={relu | id} >> head, b=head)", two)
    for place, count, mass in ((leads, 4, math.log(3 / 8)), (heads, 4, 0.0)):
        sums = sums_of(place)
        assert isinstance(sums, Exact)
        assert sum(sums.counts().values()) == count
        assert sums.log_mass() == pytest.approx(mass, abs=1e-12)
        assert compile_text(sample(place, random.Random(1)).text, place.typing.interface).params
