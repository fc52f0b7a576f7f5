"""Random draws: replay, re-derivation, mutation, normal form; and the Python form."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from einspace.candidates import Candidate, Frame, candidate_of, frame, sample
from einspace.compile import Closed, compile_derivation
from einspace.draws import sums_of
from einspace.interface import Interface
from einspace.types import Typing
from grammar import lang as E
from grammar.derive import derive
from grammar.mutate import Mutation, below
from grammar.normal import normal
from grammar.parse import parse
from grammar.walk import Limits, Replay
from ops import table
from ops.spec import seq

FACE = Interface({"x": seq(6, 8)}, seq(6, 8))
TYPING = Typing(table(), FACE)
TEXT = """
net  = (linear(dim=8) as h) * 2 >> (same(part) >> last) * 1..3 >> add(@h[0], id) >> top;
part = {0.5: pre(f=mix) | 0.2: part >> part | shared | fork(mix, gelu) >> each(same(mix)) >> add};
mix  = relu | linear(dim=8, bias) | gelu >> linear(dim=8|16) >> linear(dim=8) | id + silu
     | mlp(mult=1|2);
fix last = gelu | relu | rms_norm >> linear(dim=8);
let shared = linear(dim=8) >> {relu | gelu};
top  = rms_norm | layer_norm;
pre(f) = residual(rms_norm >> f) | f >> f;
"""
SPACE: Frame = frame(TEXT, FACE, max_nodes=120)
SEEDS = st.integers(0, 10**6)
settings.register_profile(
    "draws", max_examples=40, deadline=None, suppress_health_check=list(HealthCheck)
)
MANY = settings(settings.get_profile("draws"))


class NeverAsked:
    """Fails where a replay does not know an address."""

    def pick(self, address: str, options: object, weights: object) -> int:
        raise AssertionError(f"the trace has no choice at {address}")


def drawn(seed: int) -> Candidate:
    return sample(SPACE, random.Random(seed))


@MANY
@given(SEEDS)
def test_the_replay_of_a_trace_gives_the_same_text_and_graph(seed: int) -> None:
    first = drawn(seed)
    found, _ = derive(SPACE.space, Replay(first.trace, NeverAsked()), TYPING, SPACE.limits)
    again = sums_of(SPACE).replay(sums_of(SPACE).sample(random.Random(seed)), TYPING)
    assert found.trace == first.trace
    assert found.closed == again.closed
    assert found.log_prob == pytest.approx(first.log_prob + sums_of(SPACE).log_mass())
    assert (found.params, found.flops, found.nodes) == (first.params, first.flops, first.nodes)
    one, two = compile_derivation(found, TYPING), compile_derivation(again, TYPING)
    assert (one.source, one.text) == (two.source, first.text)


@MANY
@given(SEEDS)
def test_the_text_of_a_draw_derives_to_its_own_id(seed: int) -> None:
    first = drawn(seed)
    again = candidate_of(first.text, FACE)
    assert (again.text, again.hash) == (first.text, first.hash)
    assert again.params == first.params


@MANY
@given(SEEDS)
def test_the_normal_form_is_its_own_normal_form(seed: int) -> None:
    tree = parse(drawn(seed).text)
    derived, _ = derive(tree, Closed(), TYPING, Limits())
    once = normal(derived.closed, TYPING.signatures)
    assert normal(once, TYPING.signatures) == once
    assert once == tree


@MANY
@given(SEEDS, SEEDS)
def test_a_mutation_changes_nothing_outside_its_subtree(seed: int, luck: int) -> None:
    first, rng = drawn(seed), random.Random(luck)
    root = rng.choice(sorted(first.trace))
    found, _ = derive(SPACE.space, Mutation(first.trace, root, rng), TYPING, SPACE.limits)
    kept = {a: i for a, i in first.trace.items() if not below(a, root)}
    # A choice outside may vanish only where the walk never came: nothing outside is drawn anew.
    assert {a: found.trace[a] for a in kept if a in found.trace} == {
        a: i for a, i in kept.items() if a in found.trace
    }
    strangers = {a for a in found.trace if a not in first.trace and not below(a, root)}
    assert all(a.startswith(("fix:", "let:")) for a in strangers)
    check_legal(found.trace)


def check_legal(trace: object) -> None:
    """A trace is legal when it replays without a question left."""
    assert isinstance(trace, dict)
    found, _ = derive(SPACE.space, Replay(trace, NeverAsked()), TYPING, SPACE.limits)
    assert found.trace == trace


a, b, c = E.word("a"), E.word("b"), E.word("c")
FORMS = [
    (a >> b >> c, "a >> b >> c"),
    (a + b + c, "a + b + c"),
    (a + b >> c * 2, "a + b >> c * 2"),
    (a * (2, 6), "a * 2..6"),
    (a * (2, 6, 2), "a * 2..6 by 2"),
    (a * E.choice(2, 4), "a * {2 | 4}"),
    (a * E.word("n"), "a * n"),
    (E.choice(a, b), "{a | b}"),
    (a | b | c, "{a | b | c}"),
    (a | (b | c), "{a | {b | c}}"),
    (E.weight(0.3, a) | b, "{0.3: a | b}"),
    (E.weight("p", a) | b, "{p: a | b}"),
    (a.as_("u") >> E.ref("u"), "a as u >> @u"),
    (E.ref("h")[:], "@h[]"),
    (E.ref("h")[-1], "@h[-1]"),
    (E.ref("lead.q"), "@lead.q"),
    (E.residual(a >> b), "residual(a >> b)"),
    (E.fork(a, b) >> E.each(a, b) >> E.add, "fork(a, b) >> each(a, b) >> add"),
    (E.fork(a, b) >> E.each(E.same(a)), "fork(a, b) >> each(same(a))"),
    (E.cross(E.tied(a)), "cross(tied(a))"),
    (E.items(a), "items(a)"),
    (E.outputs(u=a, v=b >> c), "outputs(u=a, v=b >> c)"),
    (E.mul(a, b) >> E.cat(a, b, axis=1), "mul(a, b) >> cat(a, b, axis=1)"),
    (E.dot(a, b, scaled=True), "dot(a, b, scaled=true)"),
    (E.f(E.causal, heads=E.one(2) | 4), "f(causal, heads=2|4)"),
    (E.f(k=[2, 1], s="x y", n=None), 'f(k=[2, 1], s="x y", n=none)'),
    (E.f(m=E.range(2, 4, 0.5)), "f(m=2..4 by 0.5)"),
    (E.f(kv=E.ref("doc"), layers=E.ref("h")[:]), "f(kv=@doc, layers=@h[])"),
]


@pytest.mark.parametrize(("part", "text"), FORMS, ids=[text for _, text in FORMS])
def test_the_python_form_gives_the_tree_of_the_text(part: E.Part, text: str) -> None:
    assert E.space(final=part) == parse(text)


def test_declarations_in_python_give_the_tree_of_the_text() -> None:
    made = E.space(
        E.let("d", E.choice(64, 128)),
        E.fix("m", a >> b),
        E.rule("pre", E.residual(E.word("f")), "f"),
        E.rule("w", E.linear(dim=E.word("s")), s=2),
        final=E.pre(f=E.word("m")),
    )
    text = "let d = 64|128; fix m = a >> b; pre(f) = residual(f); w(s=2) = linear(dim=s); pre(f=m)"
    assert made == parse(text)
