"""Printing: `parse(show(x)) == x` for every tree."""

from hypothesis import given, settings
from hypothesis import strategies as st

from grammar import ast
from grammar.ast import Alt, Arg, Bind, Call, Choice, Expr, ListOf, Name, Number, Range, Space
from grammar.parse import parse
from grammar.show import fmt, show

NAMES = st.sampled_from(["a", "b", "conv2d", "x_1", "Big"])
NUMBERS = st.one_of(
    st.integers(-1000, 10**9), st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: x + 0.0)
).map(Number)


def _grow(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    items = st.lists(inner, min_size=2, max_size=3)
    alts = st.lists(
        st.builds(Alt, st.none() | st.floats(0.01, 1).map(Number), inner), min_size=2, max_size=3
    )
    keyword = st.builds(Arg, st.sampled_from(["k", "w"]), inner)
    return st.one_of(
        items.map(ast.seq),
        items.map(ast.total),
        alts.map(lambda found: Choice(tuple(found))),
        st.builds(lambda b, n: ast.Repeat(b, Number(n)), inner, st.integers(1, 9)),
        st.builds(Bind, inner, st.sampled_from(["u", "v"])),
        st.builds(lambda n, a: Call(n, (Arg(None, a),)), NAMES, inner),
        st.builds(lambda n, a: Call(n, (a,)), NAMES, keyword),
        st.lists(inner, max_size=2).map(lambda found: ListOf(tuple(found))),
    )


LEAVES: st.SearchStrategy[Expr] = st.one_of(
    NAMES.map(Name),
    NUMBERS,
    st.text('ab"\\ ', max_size=4).map(ast.String),
    st.sampled_from([ast.Value("e"), ast.Value("e", None, "all"), ast.Value("e", "q", -1)]),
    st.builds(lambda a, b: Range(a, a + b), st.integers(0, 9), st.integers(0, 9)),
)
TREES = st.recursive(LEAVES, _grow, max_leaves=12)


@settings(max_examples=300, deadline=None)
@given(TREES)
def test_what_is_shown_parses_to_the_same_tree(tree: Expr) -> None:
    space = Space((), tree)
    assert parse(show(space)) == space


@settings(max_examples=100, deadline=None)
@given(TREES, TREES)
def test_declarations_are_shown_and_parsed(body: Expr, default: Expr) -> None:
    params = (ast.Param("p"), ast.Param("q", default))
    space = Space((ast.Decl("fix", "r", params, body), ast.Decl("let", "m", None, default)))
    assert parse(show(space)) == space


def test_formatting_keeps_the_comments_at_the_head() -> None:
    assert fmt("# what it is\nnet=a>>b ;") == "# what it is\nnet = a >> b;"
