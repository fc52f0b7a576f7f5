"""Probability and membership of known architectures, against enumeration under the real types."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import product

import pytest

from einspace.candidates import Frame, candidate_of, frame
from einspace.interface import Interface
from einspace.library import shipped
from einspace.membership import Text, probability, trace_of
from einspace.plain import copies_alike
from einspace.space_facts import candidate, exact_of
from grammar.derive import derive
from grammar.errors import SpaceError
from grammar.exact import Drawn, Exact
from grammar.exact_state import Vertex
from grammar.normal import text_of
from grammar.parse import parse
from grammar.walk import First, Limits, Replay
from ops import table
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


def every(vertex: Vertex) -> Iterator[tuple[tuple[int, ...], float]]:
    """Picks and log-weight of every derivation below a vertex of a small forest."""
    for edge in vertex.edges:
        own = (edge[1],) if edge[1] >= 0 else ()
        for parts in product(*(tuple(every(child)) for child in edge[5])):
            picks = sum((p for p, _ in parts), own)
            yield picks, math.log(edge[0]) + sum(w for _, w in parts)


def by_architecture(frame: Frame, exact: Exact) -> dict[str, tuple[float, int, str]]:
    """Probability, derivations and text of every architecture, by enumeration."""
    mass: dict[str, float] = defaultdict(float)
    count: Counter[str] = Counter()
    texts = {}
    for picks, log_prob in every(exact.root):
        found = exact.replay(Drawn(picks, log_prob), frame.typing)
        text, key = text_of(found.closed, frame.typing.signatures)
        mass[key] += math.exp(log_prob)
        count[key] += 1
        texts[key] = text
    total = math.fsum(mass.values())
    return {k: (mass[k] / total, count[k], texts[k]) for k in mass}


@pytest.mark.parametrize("name", ["identities", "branches alike", "shared", "same"])
def test_probabilities_and_derivations_equal_those_of_enumeration(name: str) -> None:
    space = frame(SPACES[name], TASK)
    exact = exact_of(space)
    known = by_architecture(space, exact)
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
    for _, _, text in by_architecture(space, exact).values():
        member = probability(space, text, exact)
        graphs[tuple(sorted(member.trace.items()))] = member
    assert sum(m.derivations for m in graphs.values()) == sum(exact.counts().values())
    assert math.fsum(math.exp(m.log_prob) for m in graphs.values()) == pytest.approx(1, abs=1e-12)


LEAVES = "C = id | relu | linear(dim=8);"
RECURSIVE = {
    "chains": f"net = M >> head; M = 0.7: C | M >> M; {LEAVES}",
    "branches": "net = M >> head; "
    "M = 0.7: C | M >> M | clone(copies=2) >> each(M, M) >> {add | dot}; C = id | relu;",
    "copies": "net = M >> head; M = 0.7: C | M >> M | {clone(copies=2) | split(axis=1|2, parts=2)} "
    ">> each(same(M)) >> {add | cat(axis=2)}; C = id | relu;",
    "shared values": "net = M >> head; "
    "M = 0.7: relu | M >> M | residual(M) | fork(M, M, id) >> add;",
    "arguments": "net = M >> head; M = 0.7: C | M >> pre(f=M); pre(f) = fork(f, f) >> {add | dot}; "
    "C = id | relu;",
    "fixed": "net = M >> head; M = 0.7: c | M >> M; fix c = relu | id | linear(dim=8);",
    "names": "net = M >> head; M = 0.7: relu | M >> M | (M as h) >> M >> add(id, @h);",
    "modules": f"net = M >> head; M = 0.7: C | M >> M | enc; "
    f"let enc = linear(dim=8) >> {{relu|id}}; {LEAVES}",
    "ties": "net = M >> head; "
    "M = 0.7: C | M >> M | clone(copies=2) >> each(tied(linear(dim=8))) >> add; "
    "C = relu | linear(dim=8);",
}
NODES = {"arguments": 10, "names": 8}


@pytest.mark.parametrize("name", RECURSIVE)
def test_every_derivation_of_a_recursive_space_belongs_to_one_graph(name: str) -> None:
    space = frame(RECURSIVE[name], TASK, max_nodes=NODES.get(name, 5))
    exact, graphs = exact_of(space), {}
    known = by_architecture(space, exact)
    for share, count, text in known.values():
        member = probability(space, text, exact)
        graphs[tuple(sorted(member.trace.items()))] = member
        assert member.derivations >= count
        assert member.log_prob >= math.log(share) - 1e-12
    assert len(graphs) > 5
    assert sum(m.derivations for m in graphs.values()) == sum(exact.counts().values())
    assert math.fsum(math.exp(m.log_prob) for m in graphs.values()) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", ["chains", "branches"])
def test_probabilities_in_a_recursive_space_equal_those_of_enumeration(name: str) -> None:
    space = frame(RECURSIVE[name], TASK, max_nodes=NODES.get(name, 5))
    exact = exact_of(space)
    for share, count, text in by_architecture(space, exact).values():
        member = probability(space, text, exact)
        assert member.derivations == count
        assert member.log_prob == pytest.approx(math.log(share), abs=1e-12)


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


def test_parts_that_a_split_gave_out_may_not_change_places() -> None:
    space = frame(
        "net = M >> head; M = 0.7: C | M >> M | split(axis=2, parts=2) >> each(same(M)) "
        ">> cat(axis=2); C = id | relu;",
        TASK,
        max_nodes=9,
    )
    probability(space, "split(axis=2, parts=2) >> each(relu, relu) >> cat(axis=2) >> head")
    swapped = "(id as y, id as z) >> cat(@z >> relu, @y >> relu, axis=2) >> head"
    with pytest.raises(SpaceError, match="the whole"):
        probability(space, f"split(axis=2, parts=2) >> each{swapped}")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("relu >> linear(dim=16) >> head", "linear(dim=16)"),
        ("relu >> clone(copies=2) >> each(relu, gelu) >> add >> head", "gelu"),
        ("relu >> fork(relu, id) >> add >> head", "add"),
    ],
)
def test_the_first_part_that_a_recursive_space_lacks_is_shown(text: str, part: str) -> None:
    space = frame(RECURSIVE["branches"], TASK, max_nodes=9)
    with pytest.raises(SpaceError) as caught:
        probability(space, text)
    assert caught.value.span is not None
    assert text[caught.value.span.start : caught.value.span.end] == part


def test_unlike_branches_where_the_space_has_copies_are_told_apart_at_once() -> None:
    space = frame("einspace", Interface({"x": image(3, 64, 64)}, scores(10)))
    wide, narrow = "linear(dim=32)", "linear(dim=16)"
    start = "split(axis=2, parts=4) >> each"
    alike = Text(space, f"{start}({', '.join([wide] * 4)}) >> cat(axis=3) >> head")
    assert alike.derivations.count(12) >= 1
    other = Text(space, f"{start}({', '.join([wide] * 3)}, {narrow}) >> cat(axis=3) >> head")
    with pytest.raises(SpaceError, match="nothing with this 'cat'"):
        _ = other.derivations
    mixed = "clone(copies=4) >> each(leaky_relu, leaky_relu, id, id) >> add >> head"
    with pytest.raises(SpaceError, match="nothing with this 'add'"):
        _ = Text(space, mixed).derivations


@pytest.mark.parametrize(
    ("text", "alike"),
    [
        ("clone(copies=2) >> each(same(relu)) >> add", True),
        ("{clone(copies=2) | split(axis=2, parts=2)} >> each(same(relu)) >> {add | cat}", True),
        ("net = clone(copies=2) >> each(same(relu)) >> m; m = each(relu, id) >> add;", False),
        ("fork(relu, id) >> each(same(relu)) >> add", False),
        ("clone(copies=2) >> each(same(relu))", False),
        ("clone(copies=2) >> each(relu, id) >> each(same(relu)) >> add", False),
    ],
)
def test_copies_are_alike_between_two_ops(text: str, alike: bool) -> None:
    assert copies_alike(parse(text), table()) is alike


def test_a_module_used_twice_is_no_member_of_a_space_that_shares_none() -> None:
    space = frame(RECURSIVE["chains"], TASK, max_nodes=9)
    with pytest.raises(SpaceError, match="shares none"):
        probability(space, "net = enc >> relu >> enc >> head; let enc = linear(dim=8);")


def test_an_architecture_over_the_budget_is_refused() -> None:
    space = frame(RECURSIVE["chains"], TASK, max_nodes=3, max_params=100)
    with pytest.raises(SpaceError, match="has 5 nodes"):
        probability(space, "relu * 4 >> head")
    with pytest.raises(SpaceError, match="params 108"):
        probability(space, "linear(dim=8) >> head")


def test_identities_that_the_budget_leaves_no_room_for_are_told() -> None:
    space = frame("net = M >> head; M = 0.7: relu >> id >> id | M >> M;", TASK, max_nodes=3)
    with pytest.raises(SpaceError, match="3 nodes or fewer") as caught:
        probability(space, "relu >> head")
    assert "--max-nodes 4" in (caught.value.hint or "")


# -- the seeds of einspace -----------------------------------------------------------------------

SEEDS = {
    "resnet10": 61,
    "resnet18": 119,
    "resnet18_no_maxpool": 121,
    "resnet34_no_maxpool": 225,
    "wrn16_4": 89,
    "einspace_vit": 220,
    "einspace_mixer": 116,
}


@pytest.mark.parametrize(("name", "leaves"), SEEDS.items())
def test_a_seed_of_einspace_is_a_member_of_the_space_without_a_budget(
    name: str, leaves: int
) -> None:
    space = frame("einspace", Interface({"x": image(3, 64, 64)}, scores(10)))
    text = Text(space, shipped("seeds")[name].text)
    assert text.closed.nodes == leaves + 1  # and the head
    assert text.derivations.count(leaves + 1) > 10**8
    found, _ = derive(space.space, Replay(text.trace(), First()), space.typing, Limits())
    assert (
        text_of(found.closed, space.typing.signatures)[1]
        == text_of(text.closed.closed, space.typing.signatures)[1]
    )


def test_a_network_of_convolutions_is_a_member_of_einspace_in_one_dimension() -> None:
    turn = "permute(order=[2,1])"
    conv = f"{turn} >> conv1d(dim=32, kernel=3) >> {turn} >> norm >> leaky_relu(slope=0.01)"
    block = f"clone(copies=2) >> each({conv}, id) >> add"
    space = frame("einspace-1d", Interface({"x": seq(64, 4)}, scores(3)))
    text = f"{turn} >> {conv} >> ({block}) * 6 >> {turn} >> head"
    found, _ = derive(space.space, Replay(trace_of(space, text), First()), space.typing, Limits())
    assert (
        text_of(found.closed, space.typing.signatures)[1]
        == candidate_of(text, space.typing.interface).hash
    )


@pytest.mark.slow
def test_the_probability_of_a_seed_is_conditioned_on_its_own_number_of_nodes() -> None:
    space = frame("einspace", Interface({"x": image(3, 64, 64)}, scores(10)))
    member = probability(space, shipped("seeds")["resnet18"].text)
    assert (member.kind, member.nodes) == ("estimate", 120)
    assert member.derivations == 2608107674873648640
    assert member.log_prob == pytest.approx(-459.0375 + 1.48, abs=0.2)
