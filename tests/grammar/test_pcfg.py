"""Load checks: names, domains, weights, bindings, reachability and the radii."""

import pytest

from grammar.domain import Domain, Flag, Float, Int, Signature, Word
from grammar.errors import SpaceError
from grammar.parse import parse
from grammar.pcfg import check_space, with_values
from grammar.weights import weights

OPS: dict[str, dict[str, Domain]] = {
    "attn": {"heads": Int(1, 64), "causal": Flag(), "pos": Word(("none", "rope"), default="none")},
    "linear": {"dim": Int(1, 2048, log=True)},
    "norm": {"eps": Float(1e-9, 1.0, default=1e-6)},
    "clone": {"copies": Int(1, 8)},
    "split": {"axis": Int(1, 3), "parts": Int(2, 8)},
    "add": {},
    "cat": {"axis": Int(1, 3, default=1)},
    "dot": {},
    "id": {},
    "head": {},
}
TABLE = {name: Signature(name, params) for name, params in OPS.items()}

WRONG = {
    "atn(heads=2)": ("neither an op nor a rule", "did you mean attn"),
    "attn(head=2)": ("no parameter 'head'", "did you mean heads"),
    "attn": ("needs heads", "a whole number from 1 to 64"),
    "attn(heads=0)": ("is not allowed", "a whole number from 1 to 64"),
    "attn(heads=2|99)": ("is not allowed", "from 1 to 64"),
    "attn(heads=2, pos=alibi)": ("is not allowed: none or rope", "rope"),
    "attn(2)": ("without a name", "heads"),
    "net = {0: id | id};": ("not positive", "> 0"),
    "net = {0.7: id | 0.4: norm | norm};": ("leave nothing", "less than 1"),
    "net = {p: id | norm};": ("not a let number", "let p"),
    "norm >> @e": ("not bound", "bind it first"),
    "{norm as e | norm} >> @e": ("not bound", "bind"),
    "(norm as e) * 3 >> @e": ("is a list", "@e[]"),
    "a = norm; norm": ("never used", "remove it"),
    "net = norm >> net;": ("can never end", "alternative"),
    "net = {0.9: net >> net | norm};": ("grows without end", "weight"),
    "attn = norm; attn": ("name of an op", "rename"),
    "let m = norm >> k; k = m | id; m": ("reaches itself", ""),
    "f(a) = a; f(b=norm)": ("no parameter 'b'", "a"),
    "f(a) = a; f": ("needs a=", ""),
    "residual(norm, norm)": ("takes 1 part", ""),
    "f(a) = norm >> a; f(a=6)": ("a number is not a part", "parameter"),
    "f(a) = norm >> a; f(a=nrm)": ("neither an op nor a rule", "did you mean norm"),
    "f(h) = attn(heads=h); f(h=norm)": ("is not allowed", "a whole number"),
    "f(h) = attn(heads=h); g(h) = f(h=h); g(h=99)": ("heads=99 of 'attn'", "from 1 to 64"),
    "let h = 99; attn(heads=h)": ("heads=99 of 'attn'", "from 1 to 64"),
    "norm * 2.5": ("cannot be repeated", "whole number"),
    "attn(heads=2, heads=4)": ("given twice", ""),
}


@pytest.mark.parametrize("text", sorted(WRONG))
def test_what_is_wrong_is_found_before_deriving(text: str) -> None:
    fact, hint = WRONG[text]
    with pytest.raises(SpaceError) as found:
        check_space(parse(text), TABLE)
    assert fact in found.value.message
    assert hint in found.value.hint
    assert found.value.span is not None


def test_weights_of_a_choice_sum_to_one() -> None:
    rule = parse("net = 0.5: a | b | c;").decls[0].body
    assert weights(rule, {}) == pytest.approx((0.5, 0.25, 0.25))  # type: ignore[arg-type]  # a Choice


EINSPACE = """
net = S >> head;   let p = 0.32;
S = M >> M | B | P;   M = p: C | M >> M | B | P;
B = { 1: {clone(copies=2) | split(axis=1|2|3, parts=2)} >> each(M, M) >> {add | dot}
    | 2: {clone(copies=4|8) | split(axis=1|2|3, parts=4|8)} >> each(same(M)) >> {add | cat} };
P = id >> M >> id;
C = id | linear(dim=16) | norm;
"""


@pytest.mark.parametrize(("p", "plain", "copies"), [(0.32, 0.982, 1.738), (0.6, 0.578, 1.022)])
def test_the_radii_of_einspace_are_those_of_its_sheet(
    p: float, plain: float, copies: float
) -> None:
    checked = check_space(with_values(parse(EINSPACE), {"p": p}), TABLE)
    assert checked.radius == pytest.approx(plain, abs=1e-3)
    assert checked.materialised == pytest.approx(copies, abs=1e-3)
    assert checked.warnings


def test_an_unknown_value_cannot_be_set() -> None:
    with pytest.raises(SpaceError, match="no 'let q'"):
        with_values(parse(EINSPACE), {"q": 1})
