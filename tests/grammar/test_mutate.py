"""Mutation and crossover: what each operator promises, and how fairly it chooses its point."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given

from einspace.candidates import Candidate, Frame, breed, candidate_of, frame, sample
from einspace.frame import Held
from einspace.interface import Interface
from grammar.derive import derive
from grammar.mutate import Operator, below, fair, moved, part
from grammar.points import Parent, parent
from grammar.walk import Replay, Sample
from ops.spec import seq
from tests.grammar.test_properties import FACE, MANY, SEEDS, SPACE, check_legal, drawn

OPERATORS: tuple[Operator, ...] = ("subtree", "parameter", "hoist", "crossover")
NEST = "net = tree >> linear(dim=8); tree = {0.5: leaf | tree >> tree | residual(tree)};"
TREES: Frame = frame(f"{NEST} leaf = relu | gelu | mlp(mult=1|2|3);", FACE, max_nodes=60)


def points_of(space: Frame, trace: object) -> Parent:
    assert isinstance(trace, dict)
    luck = Sample(random.Random(0))
    return parent(space.space, trace, space.typing, space.limits, luck)


def child(
    space: Frame, operator: Operator, parents: tuple[Candidate, ...], seed: int
) -> tuple[Candidate, Operator]:
    return breed(space, operator, [p.trace for p in parents], random.Random(seed))


def tree(seed: int, nodes: int = 8) -> Candidate:
    rng = random.Random(seed)
    return next(c for c in (sample(TREES, rng) for _ in range(3000)) if c.nodes >= nodes)


@MANY
@given(SEEDS, SEEDS)
def test_children_fit_replay_and_differ_from_their_parents(seed: int, luck: int) -> None:
    first, second = drawn(seed), drawn(luck)
    for operator in OPERATORS:
        parents = (first, second) if operator == "crossover" else (first,)
        found, _ = child(SPACE, operator, parents, luck)
        check_legal(found.trace)
        assert candidate_of(found.text, FACE).hash == found.hash
        assert found.hash not in {p.hash for p in parents}
        assert child(SPACE, operator, parents, luck)[0] == found


def test_children_in_a_space_of_many_widths_fit() -> None:
    text = "net = (linear(dim=w) >> {relu | residual(linear(dim=w))}) * 1..3 >> out; w = 4|8|16;"
    space = frame(f"{text} out = linear(dim=8) | relu;", FACE)
    rng = random.Random(0)
    for _ in range(25):
        first, second = sample(space, rng), sample(space, rng)
        for operator in OPERATORS:
            found, _ = breed(space, operator, [first.trace, second.trace], rng)
            assert candidate_of(found.text, FACE).hash == found.hash
            assert found.hash != first.hash


@MANY
@given(SEEDS)
def test_a_subtree_is_redrawn_with_another_root_and_the_rest_kept(seed: int) -> None:
    first = tree(seed)
    found, used = child(TREES, "subtree", (first,), seed)
    assert used == "subtree"
    roots = [a for a, i in first.trace.items() if found.trace.get(a, i) != i]
    root = min(roots, key=len)
    outside = {a: i for a, i in first.trace.items() if not below(a, root)}
    assert {a: i for a, i in found.trace.items() if not below(a, root)} == outside


@MANY
@given(SEEDS)
def test_a_parameter_changes_one_value_and_no_part(seed: int) -> None:
    first = drawn(seed)
    points = points_of(SPACE, first.trace).points
    values = {p.address for p in points if p.kind == "value"}
    found, used = child(SPACE, "parameter", (first,), seed)
    if used == "parameter":
        every = first.trace.keys() | found.trace.keys()
        changed = {a for a in every if first.trace.get(a) != found.trace.get(a)}
        assert len(changed) == 1
        assert changed <= values
        assert found.nodes == first.nodes
    else:
        # No value there is free: dim=8|16 between parts of width 8 has one way only.
        assert all("linear.dim" in a or "linear.bias" in a for a in values)


def test_a_let_is_a_parameter_and_a_count_is_not() -> None:
    text = "net = (linear(dim=d) >> relu) * n >> linear(dim=8); let d = 8|16|32; let n = 1..4;"
    space = frame(text, FACE)
    first = sample(space, random.Random(0))
    kinds = {p.address: p.kind for p in points_of(space, first.trace).points}
    assert kinds == {"let:d": "value", "let:n": "count"}
    for seed in range(10):
        found, used = child(space, "parameter", (first,), seed)
        assert used == "parameter"
        assert found.trace["let:n"] == first.trace["let:n"]
        assert found.trace["let:d"] != first.trace["let:d"]


@MANY
@given(SEEDS)
def test_a_hoist_puts_a_descendant_in_the_place_of_its_ancestor(seed: int) -> None:
    first = tree(seed)
    found, used = child(TREES, "hoist", (first,), seed)
    assert used == "hoist"
    assert found.nodes < first.nodes
    places = {p.address: p.place for p in points_of(TREES, first.trace).points}
    pairs = [
        (root, source)
        for root in places
        for source in places
        if source != root and below(source, root) and places[source] == places[root]
    ]
    assert any(
        part(found.trace, root) == part(first.trace, source)
        and {a: i for a, i in found.trace.items() if not below(a, root)}
        == {a: i for a, i in first.trace.items() if not below(a, root)}
        for root, source in pairs
    )


def test_a_hoist_takes_along_what_copies_share() -> None:
    text = "net = t >> linear(dim=8); t = {0.7: relu | residual(t) | many};"
    space = frame(f"{text} many = (same(leaf) >> t) * 2; leaf = relu | gelu | silu;", FACE)
    inner = {"/net/0/t/|1/f/t": 2, "/net/0/t/|1/f/t/|2/many[=]/0/same/leaf": 2}
    inner |= {f"/net/0/t/|1/f/t/|2/many[{i}]/1/t": 0 for i in (0, 1)}
    trace = {"/net/0/t": 1, **inner}
    found = moved(trace, "/net/0/t/|1/f/t", "/net/0/t")
    assert found["/net/0/t/|2/many[=]/0/same/leaf"] == 2
    deep, _ = derive(space.space, Replay(trace, Sample(random.Random(0))), space.typing)
    assert deep.trace == trace
    children = {child(space, "hoist", (candidate(space, trace),), s)[0].text for s in range(20)}
    ends = ("(silu >> relu) * 2", "relu", "residual(relu)")
    assert children == {f"{end} >> linear(dim=8)" for end in ends}


def candidate(space: Frame, trace: dict[str, int]) -> Candidate:
    rng = random.Random(0)
    known = sample(space, rng)
    return Candidate(known.text, known.hash, trace)


@MANY
@given(SEEDS, SEEDS)
def test_a_crossing_puts_a_part_of_one_parent_in_the_other_at_the_same_choice(
    seed: int, luck: int
) -> None:
    first, second = tree(seed), tree(luck)
    found, used = child(TREES, "crossover", (first, second), luck)
    if used != "crossover":
        assert first.hash == second.hash
        return
    mine = {p.address: p.place for p in points_of(TREES, first.trace).points}
    theirs = {p.address: p.place for p in points_of(TREES, second.trace).points}
    assert len(set(mine.values()) - set(theirs.values())) <= 2  # one space, so one set of places
    assert any(
        part(found.trace, root) == part(second.trace, source)
        for root in mine
        for source in theirs
        if mine[root] == theirs[source]
        and all(found.trace.get(a) == i for a, i in first.trace.items() if not below(a, root))
    )


def test_parts_are_crossed_at_different_addresses() -> None:
    first = candidate_with(TREES, "residual(gelu) >> linear(dim=8)")
    second = candidate_with(TREES, "residual(residual(mlp(mult=3.0))) >> linear(dim=8)")
    texts = {child(TREES, "crossover", (first, second), seed)[0].text for seed in range(40)}
    assert {
        "mlp(mult=3.0) >> linear(dim=8)",
        "residual(mlp(mult=3.0)) >> linear(dim=8)",
        "residual(residual(residual(mlp(mult=3.0)))) >> linear(dim=8)",
    } <= texts


def candidate_with(space: Frame, text: str) -> Candidate:
    rng = random.Random(0)
    return next(c for c in (sample(space, rng) for _ in range(3000)) if c.text == text)


def test_a_let_that_only_the_second_parent_knows_comes_with_its_part() -> None:
    text = "net = {mix | relu} >> {relu | gelu} >> linear(dim=8); mix = shared; "
    space = frame(f"{text} let shared = mlp(mult=1|2|3|4|5|6|7|8);", FACE)
    first = candidate_with(space, "relu * 2 >> linear(dim=8)")
    second = candidate_with(space, "mlp(mult=7.0) >> gelu >> linear(dim=8)")
    children = [child(space, "crossover", (first, second), seed) for seed in range(20)]
    assert all(used == "crossover" for _, used in children)
    texts = {c.text for c, _ in children}
    assert texts == {"mlp(mult=7.0) >> relu >> linear(dim=8)", "relu >> gelu >> linear(dim=8)"}


def shares(space: Frame, trace: object, draws: int = 4000) -> Counter[str]:
    """How often each address is drawn."""
    points, rng = points_of(space, trace).points, random.Random(0)
    return Counter(fair(points, rng).address for _ in range(draws))


def test_a_choice_inside_twelve_copies_is_drawn_as_often_as_one_outside() -> None:
    space = frame("net = {relu | gelu} >> {relu | gelu | silu} * 12;", FACE)
    drawn_at = shares(space, sample(space, random.Random(0)).trace)
    assert len(drawn_at) == 13
    assert 1850 < drawn_at["/net/0"] < 2150
    inside = [n for a, n in drawn_at.items() if a != "/net/0"]
    assert max(inside) < 1.6 * min(inside)


def test_what_copies_share_counts_once() -> None:
    text = "net = {relu | gelu} >> (same({relu | gelu | silu}) >> {relu | gelu}) * 6 >> cell * 3;"
    space = frame(f"{text} fix cell = relu | gelu;", FACE)
    drawn_at = shares(space, sample(space, random.Random(0)).trace)
    assert len([a for a in drawn_at if "/same" in a or a.startswith("fix:")]) == 2
    for address in ("/net/0", "/net/1[=]/0/same", "fix:cell"):
        assert 850 < drawn_at[address] < 1150


def test_every_choice_of_a_recursive_space_is_drawn_alike() -> None:
    first = tree(3, nodes=20)
    found = points_of(TREES, first.trace)
    places = {p.address: p.place for p in found.points}
    by_place: Counter[int] = Counter()
    for address, count in shares(TREES, first.trace).items():
        by_place[places[address]] += count
    expected = 4000 / len(by_place)
    assert len(by_place) == 3
    assert all(0.9 * expected < n < 1.1 * expected for n in by_place.values())


def test_a_space_of_one_architecture_gives_back_the_parent() -> None:
    space = frame("net = relu >> {linear(dim=8) | linear(dim=8)};", FACE)
    first = sample(space, random.Random(0))
    for operator in OPERATORS:
        found, _ = breed(space, operator, [first.trace, first.trace], random.Random(0))
        assert found.hash == first.hash


def test_an_operator_that_does_not_apply_leaves_the_work_to_subtree() -> None:
    space = frame("net = {relu | gelu | silu} >> linear(dim=8);", FACE)
    first = sample(space, random.Random(0))
    for operator in OPERATORS:
        found, used = breed(space, operator, [first.trace, first.trace], random.Random(0))
        assert (used, found.hash == first.hash) == ("subtree", False)


def test_a_parent_beyond_the_limits_is_repaired() -> None:
    wide = Interface({"x": seq(6, 8)}, seq(6, 8))
    text = "net = {mlp(mult=8) | mlp(mult=1)} >> {relu | gelu};"
    first = candidate_with(frame(text, wide), "mlp(mult=8.0) >> relu")
    small = frame(text, wide, max_params=200)
    for operator in OPERATORS:
        found, _ = breed(small, operator, [first.trace, first.trace], random.Random(1))
        assert "mult=1.0" in found.text or found.params <= 200


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_seed_alone_decides(operator: Operator) -> None:
    first, second = tree(1), tree(2)
    random.seed(1)
    one = [child(TREES, operator, (first, second), s)[0].text for s in range(8)]
    random.seed(2)
    assert [child(TREES, operator, (first, second), s)[0].text for s in range(8)] == one
    assert len(set(one)) > 1


def test_a_parent_is_walked_once_and_its_children_stay_the_same() -> None:
    first, second = tree(1), tree(2)
    used, fresh = (replace(TREES, held=Held()) for _ in range(2))
    for seed in range(6):
        for operator in OPERATORS:
            fresh.held.parents.clear()
            assert child(used, operator, (first, second), seed) == child(
                fresh, operator, (first, second), seed
            )
    assert set(used.held.parents) == {tuple(p.trace.items()) for p in (first, second)}


def test_a_parent_that_had_to_be_repaired_is_walked_anew() -> None:
    space = replace(TREES, held=Held())
    cut = dict(list(tree(1).trace.items())[:2])
    found = {breed(space, "subtree", [cut], random.Random(seed))[0].hash for seed in range(8)}
    assert len(found) > 1
    assert not space.held.parents
