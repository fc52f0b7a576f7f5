"""What is told of ops is computed from them: each has an example that checks, growth, a page."""

import re

import pytest

import ops
from einspace.opcheck import made_up
from einspace.opfacts import about, choices, engine, example, growth, page, place
from einspace.oppage import details, lines, listing, rows
from grammar.domain import Flag, Float, Int, Ints, Word
from grammar.errors import OpError
from ops.spec import Op, no_cost

by_op = pytest.mark.parametrize("op", ops.table().values(), ids=lambda op: op.name)


@by_op
def test_every_op_has_an_example_that_checks(op: Op) -> None:
    kind, text, compiled = example(op)
    assert re.search(rf"\b{op.name}\b", text)
    assert str(compiled.graph.input_nodes[0].type) == kind
    assert about(op)
    assert page(op)


@pytest.mark.parametrize(
    ("name", "flops", "state"),
    [
        ("softmax_attn", "T^2", "T"),
        ("linear_attn", "T", "1"),
        ("gru", "T", "1"),
        ("sink_attn", "T^2", "1"),
        ("rcmha", "T^2", "T"),
        ("relu", "-", "-"),
        ("echo_attn", "T^2", "T"),
        ("col2im", "-", "-"),
        ("head", "1", "-"),
        ("conv2d", "-", "-"),
    ],
)
def test_growth_is_read_off_the_costs(name: str, flops: str, state: str) -> None:
    op = ops.table()[name]
    assert growth(op, "flops") == flops
    assert (growth(op, "state") if op.state else "-") == state


def test_the_engine_is_the_file_of_what_an_op_uses() -> None:
    assert engine(ops.table()["linear_attn"]) == "ops/kernels/chunked.py"
    assert engine(ops.table()["relu"]) == ""


def test_values_without_a_default_are_allowed_ones() -> None:
    for domain in (Int(1, 64), Int(100, 200), Float(0.0, 1.0), Float(2.0, 3.0), Flag()):
        assert choices("p", domain)
        assert [domain.accept(v) for v in choices("p", domain)] == choices("p", domain)
    assert choices("kind", Word(("a", "b"))) == ["a", "b"]
    assert choices("order", Ints(1, 3, 3))[0] == (2, 1)


def test_an_op_that_fits_nowhere_says_that_it_needs_an_example() -> None:
    from ops.spec import Mismatch

    def refuse(x: object) -> object:
        raise Mismatch("never")

    op = Op(name="odd", module=ops.table()["relu"].module, shape=refuse, cost=no_cost, causal=True)
    assert place(op) is None
    with pytest.raises(OpError, match="no example") as caught:
        example(op)
    assert "example=" in caught.value.hint
    with pytest.raises(OpError, match="fits none of"):
        made_up(op)


def test_the_table_has_a_row_for_each_op_and_is_cut_to_the_terminal() -> None:
    found = rows()
    assert [r["name"] for r in found] == sorted(ops.table())
    wide, narrow = listing(found), listing(found, 60)
    assert len(wide) == len(found) + 1
    assert max(map(len, narrow)) == 60
    assert wide[0].split()[:3] == ["op", "family", "causal"]


def test_a_page_shows_mathematics_parameters_facts_example_and_drawing() -> None:
    found = details("softmax_attn")
    text = "\n".join(lines(found))
    for part in ("softmax_s(", "must be given", "a whole number from 1 to 64", "~ T^2", "exports"):
        assert part in text
    assert found["example"]["text"] in text
    assert found["drawing"].splitlines()[-1] in text
    with pytest.raises(OpError, match="there is no op 'softmx_attn'") as caught:
        details("softmx_attn")
    assert "softmax_attn" in caught.value.hint
