"""Syntax: what parses, and what a wrong text is told."""

import sys

import pytest

from grammar.ast import Bind, Choice, Name, Number, Repeat, Seq, Sum
from grammar.errors import SpaceError
from grammar.parse import parse

WRONG = {
    "a >> >> b": ("unexpected '>>' after '>>'", 1, 6, "a part follows"),
    "a >>": ("unexpected '>>' at the end", 1, 3, "a part must follow"),
    "net = a\nb = c;": ("expected ';' before 'b'", 2, 1, "ends with ';'"),
    "(a": ("unclosed '('", 1, 1, "add ')'"),
    "a)": ("')' closes nothing", 1, 2, "remove it"),
    "f(x=1, x=2)": ("'x' is given twice", 1, 8, ""),
    "a | | b": ("expected an alternative after '|'", 1, 3, "add a part"),
    "{}": ("empty choice", 1, 2, "at least one part"),
    "a * 0": ("cannot be repeated 0 times", 1, 5, "a whole number from 1 on"),
    'a >> "abc': ("does not end on its line", 1, 6, "close it"),
    "a $ b": ("'$' means nothing here", 1, 3, "names are letters"),
    "a as head": ("'head' is reserved", 1, 6, "reserved:"),
    "f(k=3..1)": ("runs backwards", 1, 5, "write 1..3"),
    "f(k=1e99)": ("beyond 1e12", 1, 5, ""),
    "a = b; a = c;": ("declared twice", 1, 8, "rename"),
    "[a}": ("'}' cannot close '['", 1, 3, "remove it"),
    "(" * 201 + ")" * 201: ("nest deeper than 200", 1, 201, "name"),
    "": ("the text is empty", None, None, "write"),
}


@pytest.mark.parametrize("text", sorted(WRONG))
def test_a_wrong_text_is_told_place_fact_and_way_out(text: str) -> None:
    fact, line, column, hint = WRONG[text]
    with pytest.raises(SpaceError) as found:
        parse(text, "t.space")
    told = found.value.as_dict()
    assert fact in str(told["message"])
    assert (told["line"], told["column"]) == (line, column)
    assert hint in str(told["hint"])
    if line is not None:
        assert found.value.render().startswith(f"t.space:{line}:{column}: ")
        assert "^" in found.value.render()


def test_postfixes_bind_tightest_then_plus_then_flow() -> None:
    assert parse("a >> b + c * 2 as x").final == Seq(
        (Name("a"), Sum((Name("b"), Bind(Repeat(Name("c"), Number(2)), "x"))))
    )


def test_one_alternative_without_a_weight_is_itself() -> None:
    assert parse("{a}").final == Name("a")
    assert isinstance(parse("{0.5: a}").final, Choice)


def test_a_long_chain_of_postfixes_is_refused_not_a_crash() -> None:
    with pytest.raises(SpaceError, match="nest deeper"):
        parse("a" + " * 2" * 5000)


def test_a_text_larger_than_the_limit_is_refused() -> None:
    with pytest.raises(SpaceError, match="256 KB"):
        parse("a" * (256 * 1024 + 1))


def test_the_grammar_never_imports_torch() -> None:
    import subprocess

    code = (
        "import sys, grammar.derive, grammar.normal, grammar.mutate, grammar.pcfg;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
