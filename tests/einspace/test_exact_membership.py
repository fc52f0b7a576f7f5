"""Probability and membership of known architectures, against enumeration under the real types."""

import math
import random
from collections import Counter, defaultdict

import pytest

from einspace.candidates import Frame, candidate_of, frame
from einspace.interface import Interface
from einspace.library import shipped
from einspace.membership import probability
from einspace.space_facts import candidate, exact_of
from grammar.derive import derivations, derive
from grammar.errors import SpaceError
from grammar.normal import text_of
from grammar.walk import First, Replay
from ops.spec import image, scores, seq
from search.tasks import find

TASK = Interface({"x": seq(6, 8)}, scores(4))
SPACES = {
    "identities": "({id | linear(dim=8|16) | relu} * 1..3) >> head",
    "branches alike": (
        "fork(linear(dim=8), {linear(dim=8) | id}, linear(dim=8|16)) >> {add | cat} >> head"
    ),
    "shared": "net = enc >> {enc | linear(dim=8)} >> head; let enc = linear(dim=8) >> {relu | id};",
    "same": "({same({linear(dim=8) | id}) >> {relu | id}} * 2) >> head",
    "residual": "net = pre(f={linear(dim=8)|relu}) * 1..2 >> head; pre(f) = residual(f) | id + f;",
    "labels": "linear(dim=8|16) as h >> {relu | id} >> {add(id, @h) | add(@h, id) | id} >> head",
}


def by_architecture(frame: Frame) -> dict[str, tuple[float, int, str]]:
    """Probability, derivations and text of every architecture, by enumeration."""
    mass: dict[str, float] = defaultdict(float)
    count: Counter[str] = Counter()
    texts = {}
    for found in derivations(frame.space, First(), frame.typing, frame.limits):
        text, key = text_of(found.closed, frame.typing.signatures)
        mass[key] += math.exp(found.log_prob)
        count[key] += 1
        texts[key] = text
    total = math.fsum(mass.values())
    return {k: (mass[k] / total, count[k], texts[k]) for k in mass}


@pytest.mark.parametrize("name", ["identities", "branches alike", "shared", "same"])
def test_probabilities_and_derivations_equal_those_of_enumeration(name: str) -> None:
    space = frame(SPACES[name], TASK)
    exact, known = exact_of(space), by_architecture(space)
    assert len(known) > 2
    for share, count, text in known.values():
        member = probability(space, text, exact)
        assert member.derivations == count
        assert member.log_prob == pytest.approx(math.log(share), abs=1e-12)


@pytest.mark.parametrize("name", ["residual", "labels"])
def test_every_derivation_belongs_to_one_graph(name: str) -> None:
    """Texts of one graph may differ in form; their common probability is that of the graph."""
    space = frame(SPACES[name], TASK)
    exact, graphs = exact_of(space), {}
    for _, _, text in by_architecture(space).values():
        member = probability(space, text, exact)
        graphs[tuple(sorted(member.trace.items()))] = member
    assert sum(m.derivations for m in graphs.values()) == sum(exact.counts().values())
    assert math.fsum(math.exp(m.log_prob) for m in graphs.values()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("name", "task"), [("lm", "shakespeare"), ("vision", "mnist5k")])
def test_a_draw_of_a_shipped_space_is_a_member_of_it(name: str, task: str) -> None:
    space = frame(name, find(task).interface)
    exact, rng = exact_of(space), random.Random(5)
    for _ in range(5):
        drawn = candidate(space, exact, exact.sample(rng))
        member = probability(space, drawn.text, exact)
        assert member.log_prob >= drawn.log_prob - 1e-9
        assert member.derivations >= 1


def test_budgets_hold_for_every_draw() -> None:
    space = frame("lm", find("shakespeare").interface, max_params=300_000)
    exact, rng = exact_of(space), random.Random(5)
    assert exact.ranges().params[1] <= 300_000
    for _ in range(20):
        drawn = candidate(space, exact, exact.sample(rng))
        again = candidate_of(drawn.text, find("shakespeare").interface)
        assert again.params == drawn.params <= 300_000


def test_the_first_part_that_cannot_be_derived_is_shown() -> None:
    space = frame("attention", find("mqar").interface)
    text = "embed(dim=64) >> residual(rms_norm >> gru) >> rms_norm >> head"
    with pytest.raises(SpaceError, match="nothing with this 'gru'") as caught:
        probability(space, text)
    assert caught.value.span is not None
    assert text[caught.value.span.start : caught.value.span.end] == "gru"


@pytest.mark.slow
def test_a_seed_of_einspace_is_a_member_of_the_space() -> None:
    """With as many nodes as it has; its derivations differ in where sequences are cut."""
    text = shipped("seeds")["resnet10"].text
    space = frame("einspace", Interface({"x": image(3, 64, 64)}, scores(10)), max_nodes=62)
    member = probability(space, text)
    assert member.kind == "estimate"
    assert member.derivations > 10**9
    found, _ = derive(space.space, Replay(member.trace, First()), space.typing, space.limits)
    assert (
        text_of(found.closed, space.typing.signatures)[1]
        == candidate_of(text, space.typing.interface).hash
    )
