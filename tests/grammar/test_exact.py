# ruff: noqa: E501  (a space a line reads better than wrapped ones)
"""Exact derivation against enumeration: the same derivations, counts and probabilities."""

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import chi2  # type: ignore[import-untyped]  # no stubs

import grammar.derive
from grammar.derive import derivations
from grammar.domain import Int, Scalar, Signature
from grammar.errors import SpaceError
from grammar.exact import Exact
from grammar.parse import parse
from grammar.walk import Applied, Derivation, First, Limits, Site, refuse

SIGNATURES = {
    s.name: s
    for s in (
        Signature("id"),
        Signature("keep"),
        Signature("wide", {"dim": Int(1, 64)}),
        Signature("half"),
        Signature("odd"),
        Signature("clone", {"copies": Int(2, 8)}),
        Signature("gate", {}, ("by",), exports=("q",)),
        Signature("aim"),
        Signature("add", variadic=True),
        Signature("cat", variadic=True),
    )
}


class Widths:
    """Values are widths; an op refuses what does not divide, or differs."""

    signatures = SIGNATURES

    def inputs(self) -> Mapping[str, object]:
        return {"x": 8}

    def apply(
        self,
        op: str,
        params: Mapping[str, Scalar],
        values: Sequence[object],
        inputs: Mapping[str, object],
        site: Site,
    ) -> Applied:
        for value in (*values, *inputs.values()):
            if not isinstance(value, int):
                raise refuse("a single width is needed", site.node)
        first = values[0]
        assert isinstance(first, int)
        made: object = first
        if op == "wide":
            made = params["dim"]
        elif op == "half" and first % 2 == 0:
            made = first // 2
        elif op == "odd" and first % 2:
            made = first
        elif op == "aim":
            made = {"a": first, "b": first // 2}.get(site.output, 3)
        elif op == "clone":
            copies = params["copies"]
            assert isinstance(copies, int)
            made = (first,) * copies
        elif (op == "gate" and inputs["by"] == first) or (op == "add" and len(set(values)) == 1):
            made = first
        elif op == "cat":
            made = sum(v for v in values if isinstance(v, int))
        elif op not in ("id", "keep"):
            raise refuse(f"'{op}' does not fit {values}", site.node)
        width = made if isinstance(made, int) else 0
        return Applied(made, first * width, 2 * first, (op, tuple(params.items()), first))

    def export(self, value: object, name: str, site: Site) -> object:
        return value

    def fold(self, value: object, site: Site) -> object:
        return self._whole(value, 2, site)

    def unfold(self, value: object, outer: object, site: Site) -> object:
        assert isinstance(value, int)
        return 2 * value

    @staticmethod
    def _whole(value: object, by: int, site: Site) -> object:
        if not isinstance(value, int) or value % by:
            raise refuse("no list axis", site.node)
        return value // by

    def finish(self, value: object, site: Site) -> object:
        if isinstance(value, dict):
            return value
        if not isinstance(value, int) or value > 40:
            raise refuse(f"ends with {value}", site.node)
        return value


SPACES = {
    "choices": "{keep | 0.7: half | wide(dim=3)} >> {half | odd | keep >> half}",
    "ranges": "wide(dim=3..6) >> {half | odd} >> wide(dim={2: 4 | 1: 5..7})",
    "counts": "{half | keep} * 1..4 >> {odd | keep}",
    "names": "net = a >> b; a = wide(dim=n) >> half; n = 4 | 5 | 6; b = keep | half;",
    "arguments": "net = pre(f={half | keep | wide(dim=4|8)}) * 2; pre(f) = {f >> f | f | residual(f)};",
    "values as arguments": "net = blk(d=4|6, n=1..2); blk(d, n) = {wide(dim=d) >> keep} * n >> wide(dim=d) * n;",
    "arguments passed on": "net = p(f={half | keep}); p(f) = q(g=f) >> f; q(g) = g >> {g | keep};",
    "defaults": "net = p >> p(s={4 | 8}); p(s={2 | 6}) = wide(dim=s) >> {wide(dim=s) | half};",
    "fix": "net = c >> {c | keep} >> c; fix c = {half | keep | wide(dim=4|8)};",
    "let value": "net = wide(dim=d) >> {half | keep} >> wide(dim=d); let d = 4 | 5 | 6;",
    "let module": "net = {keep | half} >> enc >> {keep | half} >> enc; let enc = {wide(dim=8) | keep | half};",
    "let branches": "net = fork(enc >> half, keep >> enc) >> {add | cat}; let enc = {keep | wide(dim=6|8)};",
    "same": "{same({half | keep}) >> {keep | wide(dim=8)}} * 1..3",
    "same below rules": "net = (a >> layer) * 3; a = keep | half; layer = same({keep | half}) >> {id | keep};",
    "same in an argument": "net = (keep >> pre(f=same({half | keep}))) * 3; pre(f) = residual(f) | f;",
    "same nested": "(same(({half | keep} >> same({keep | id})) * 2) >> {keep | id}) * 2",
    "tied": "(tied({wide(dim=8) | keep | half}) >> {keep | wide(dim=8)}) * 2",
    "each same": "clone(copies=2|3) >> each(same({half | keep} >> {keep | id})) >> {add | cat}",
    "each same let": "net = clone(copies=2) >> each(same({half | e})) >> {add >> e | cat}; let e = keep | wide(dim=8);",
    "each": "clone(copies=2) >> each({half | keep}, {keep | wide(dim=4)}) >> {add | cat}",
    "each one": "clone(copies=2|3) >> each({half | keep}) >> {add | cat}",
    "labels": "{half | keep} as h >> {keep | half} >> {@h | cat(id, @h) | gate(by=@h)}",
    "labels below": "net = {half | keep} as h >> use >> use; use = keep | gate(by=@h) | add(id, @h);",
    "lists": "({half | keep} as h) * 2..3 >> {@h[0] | @h[-1] | @h[] >> cat | @h[1]}",
    "each lists": "clone(copies=2) >> each({half | keep} as h) >> add >> {@h[0] | @h[-1]}",
    "sums": "{half | keep | half >> wide(dim=8)} + {half | id | wide(dim=8)} + id",
    "cross": "fork(clone(copies=2), clone(copies=2)) >> cross(same(cat >> {half | keep})) >> {cat | add}",
    "items": "{keep | half} >> items({half | keep} * 1..3) >> {odd | keep}",
    "outputs": "outputs(a={half | keep}, b={keep | wide(dim=2|3)} as u, c=@u >> half)",
    "exports": "gate(by=@x) as g >> {keep | half} >> {gate(by=@g.q) | keep}",
    "names out of an argument": "net = pre(f={half | keep} as h >> keep) >> {keep | half} >> cat(id, @h); pre(f) = residual(f) >> {keep | id};",
    "names out of arguments": "net = two(f={half | keep} as h, g=half as h) >> cat(id, @h); two(f, g) = g >> f;",
    "names out of a rule's two uses": "net = pre(f={half | keep} as h) >> {cat(id, @h) | @h}; pre(f) = f >> {keep | half} >> f;",
    "names through two rules": "net = p(f={half | keep} as h) >> {gate(by=@h) | keep}; p(f) = q(g=f) >> keep; q(g) = {g | keep} >> g;",
    "names of an argument's argument": "net = p(f=p(f={half | keep} as h) >> add(id, @h) as u) >> cat(@u, @h); p(f) = keep >> f;",
    "names of nested calls": "net = p(f=half as h) >> cat(@h, id); p(f) = q(f=keep as h) >> add(id, @h) >> f; q(f) = f >> {keep | id};",
    "names in copies of an argument": "net = p(f={half | keep} as h) >> {@h[0] | @h[-1] >> keep}; p(f) = f * 2..3;",
    "names lost in an alternative": "net = keep as h >> p(f={half | keep} as h) >> cat(id, @h); p(f) = {f | keep};",
    "names out of a fix": "net = p(f={half | keep} as h) >> p(f=half) >> cat(id, @h); fix p(f) = {keep | half} >> f;",
    "names out of each": "net = clone(copies=2) >> p(f={half | keep} as h) >> add >> {@h[0] | @h[1]}; p(f) = each(f);",
    "exports out of an argument": "net = p(f=gate(by=@x) as g) >> {gate(by=@g.q) | keep}; p(f) = {keep | half} >> f >> {keep | id};",
    "aims of outputs": "net = outputs(a=end, b={keep | half} >> end, c=aim); end = {keep | half} >> aim;",
    "aims through arguments": "net = outputs(a=p(f=aim), b=p(f={keep | half} >> aim)); p(f) = f >> {keep | f};",
    "aims of a shared part": "net = outputs(a=e >> keep, b=e); let e = wide(dim=6|8) >> aim;",
    "aims in lists": "outputs(a=clone(copies=2) >> each(same({keep | half} >> aim)) >> add, b=aim)",
    "recursion with names out of arguments": "m = 0.6: c | p(f={half | m} as h) >> cat(id, @h); p(f) = f; c = half | keep;",
    "recursion to aims": "net = outputs(a=m, b=m); m = 0.6: aim | keep >> m;",
    "recursion": "m = 0.6: {half | keep | odd} | m >> m;",
    "left recursion": "m = 0.5: {half | keep} | m >> half;",
    "deep recursion": "m = 0.4: c | 0.2: m >> m | 0.2: b | residual(m); c = half | keep; b = clone(copies=2) >> each(same(m)) >> {add | cat};",
    "recursion in arguments": "m = 0.5: keep | p(f=m) | half; p(f) = keep >> f;",
    "fix in recursion": "m = 0.5: c | m >> c; fix c = half | keep;",
    "let in recursion": "m = 0.5: keep | m >> e >> half; let e = wide(dim=4|8);",
}
SMALL = Limits(nodes=4, depth=7)


def enumerate_all(text: str, limits: Limits, monkeypatch: pytest.MonkeyPatch) -> list[Derivation]:
    monkeypatch.setattr(grammar.derive, "MAX_REFUSALS", 10**9)
    space = parse(text)
    try:
        return list(derivations(space, First(), Widths(), limits))
    except SpaceError:
        return []


def agree(text: str, limits: Limits, monkeypatch: pytest.MonkeyPatch) -> int:
    """Every figure of `Exact` equals that of the enumeration; returns how many there are."""
    known = enumerate_all(text, limits, monkeypatch)
    if not known:
        with pytest.raises(SpaceError):
            Exact(parse(text), Widths(), limits)
        return 0
    exact = Exact(parse(text), Widths(), limits)
    assert dict(exact.counts()) == dict(sorted(Counter(d.nodes for d in known).items()))
    mass = math.fsum(math.exp(d.log_prob) for d in known)
    assert exact.log_mass() == pytest.approx(math.log(mass), abs=1e-12)
    entropy = math.log(mass) - math.fsum(d.log_prob * math.exp(d.log_prob) for d in known) / mass
    assert exact.entropy() == pytest.approx(entropy, abs=1e-10)
    ranges = exact.ranges()
    assert ranges.params == (min(d.params for d in known), max(d.params for d in known))
    assert ranges.flops == (min(d.flops for d in known), max(d.flops for d in known))
    every = {tuple(sorted(d.trace.items())): d.log_prob for d in known}
    rng = random.Random(0)
    for drawn in [*(exact.sample(rng) for _ in range(25)), *(exact.uniform(rng) for _ in range(5))]:
        derivation = exact.replay(drawn, Widths())
        log_prob = every[tuple(sorted(derivation.trace.items()))]
        assert derivation.log_prob == pytest.approx(log_prob, abs=1e-12)
    for drawn in (exact.sample(rng) for _ in range(10)):
        log_prob = exact.replay(drawn, Widths()).log_prob
        assert drawn.log_prob == pytest.approx(log_prob - math.log(mass), abs=1e-12)
    return len(known)


@pytest.mark.parametrize("name", SPACES)
def test_counts_probabilities_and_ranges_equal_those_of_enumeration(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = SMALL if "recursion" in name else Limits()
    assert agree(SPACES[name], limits, monkeypatch) >= 2


@pytest.mark.parametrize("name", ["recursion in arguments", "same", "counts", "arguments"])
@pytest.mark.parametrize("params", [100, 150])
def test_budgets_of_params_and_flops_are_exact(
    name: str, params: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(4, params, 80, depth=7)
    found = agree(SPACES[name], limits, monkeypatch)
    assert found < len(enumerate_all(SPACES[name], SMALL, monkeypatch))


def test_samples_follow_the_conditioned_distribution() -> None:
    space = parse("m = 0.6: {half | keep | odd} | {wide(dim=3..5) | half} >> m;")
    limits = Limits(nodes=3)
    exact, rng = Exact(space, Widths(), limits), random.Random(7)
    drawn = Counter(exact.sample(rng) for _ in range(100_000))
    shares = {d: math.exp(d.log_prob) for d in drawn}
    assert len(drawn) == sum(exact.counts().values())
    assert math.fsum(shares.values()) == pytest.approx(1, abs=1e-12)
    square = sum((n - 1e5 * shares[d]) ** 2 / (1e5 * shares[d]) for d, n in drawn.items())
    assert square < chi2.ppf(0.9999, len(drawn) - 1)


def test_uniform_draws_of_a_size_are_equally_likely() -> None:
    space = parse("m = 0.6: {half | keep | odd} | {wide(dim=3..5) | half} >> m;")
    exact, rng = Exact(space, Widths(), Limits(nodes=3)), random.Random(7)
    count = exact.counts()[3]
    drawn = Counter(exact.uniform(rng, 3).picks for _ in range(200 * count))
    assert len(drawn) == count
    square = sum((n - 200) ** 2 / 200 for n in drawn.values())
    assert square < chi2.ppf(0.9999, count - 1)
    with pytest.raises(SpaceError, match="no derivation has 99 nodes"):
        exact.uniform(rng, 99)


def test_left_recursion_gives_the_catalan_numbers() -> None:
    exact = Exact(parse("m = 0.6: keep | m >> m;"), Widths(), Limits(nodes=60))
    for n, count in exact.counts().items():
        assert count == math.comb(2 * n - 2, n - 1) // n
    assert len(exact.counts()) == 60


def test_probabilities_far_below_the_smallest_float_stay_exact() -> None:
    exact = Exact(parse("{0.00001: half >> wide(dim=8) | odd} * 400"), Widths())
    assert exact.log_mass() == pytest.approx(400 * math.log(1e-5), rel=1e-12)


@pytest.mark.parametrize("text", ["m = keep | m;", "m = keep | fork(m) >> add;"])
def test_recursion_that_spends_no_node_is_refused_or_ends(text: str) -> None:
    if "fork" in text:
        assert Exact(parse(text), Widths(), Limits(nodes=5)).counts() == dict.fromkeys(
            range(1, 6), 1
        )
        return
    with pytest.raises(SpaceError, match="without an op in between"):
        Exact(parse(text), Widths(), Limits(nodes=5))


def test_recursion_needs_a_budget_of_nodes() -> None:
    with pytest.raises(SpaceError, match="recursive"):
        Exact(parse("m = 0.6: keep | m >> m;"), Widths())


LEAF = st.sampled_from(
    ["keep", "half", "odd", "wide(dim=4|8)", "wide(dim=d)", "id", "r", "s", "t", "p(f=r)"]
)
TEXTS = st.recursive(
    LEAF,
    lambda e: st.one_of(
        st.builds("({} >> {})".format, e, e),
        st.builds("{{{} | {}}}".format, e, e),
        st.builds("{{{} | 0.3: {}}}".format, e, e),
        st.builds("residual({})".format, e),
        st.builds("({} * 1..2)".format, e),
        st.builds("(same({}) * 2)".format, e),
        st.builds("(({} >> tied({})) * 2)".format, e, e),
        st.builds("(clone(copies=2) >> each(same({})) >> add)".format, e),
        st.builds("(clone(copies=2) >> each({}) >> cat)".format, e),
        st.builds("(fork({}, {}) >> add)".format, e, e),
        st.builds("({} as h >> add({}, @h))".format, e, e),
        st.builds("p(f={})".format, e),
    ),
    max_leaves=4,
)


@given(TEXTS, TEXTS, LEAF)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_grammars_agree_with_enumeration(a: str, b: str, c: str) -> None:
    last = "r" if c == "p(f=r)" else c
    text = (
        f"net = {a} >> {b} >> {{s | t | keep}}; let d = 4 | 8; r = keep | half; fix s = {{keep | half}};"
        f"let t = wide(dim=8|4) | keep; p(f) = {{f >> f | f}} >> {{{last} | id}};"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grammar.derive, "MAX_REFUSALS", 10**9)
        size = sum(1 for _ in zip(range(1_500), _every(text), strict=False))
        if size < 1_500:
            agree(text, Limits(), patch)


def _every(text: str) -> Iterator[Derivation]:
    try:
        yield from derivations(parse(text), First(), Widths())
    except SpaceError:
        return
