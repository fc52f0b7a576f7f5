"""Which spaces the exact sums do not cover, told from their text."""

import pytest

from grammar.beyond import beyond
from grammar.parse import parse

PRE = "pre(f) = residual(rms_norm >> f); "


@pytest.mark.parametrize(
    ("text", "covered"),
    [
        (PRE + "pre(f=gelu as e) >> relu + @e", False),
        (PRE + "pre(f=gelu as e >> relu + @e)", True),
        (PRE + "gelu as e >> pre(f=relu + @e)", True),
        ("(gelu as e) * 2 >> @e[0]", True),
        ("outputs(a=head, b=relu)", False),
        ("outputs(a=gelu, b=relu)", True),
        ("outputs(a=top, b=relu); top = linear(dim=4) >> head;", False),
    ],
)
def test_names_that_leave_an_argument_and_heads_of_outputs_are_not_summed(
    text: str, covered: bool
) -> None:
    if text.startswith("outputs(a=top"):
        first, rule = text.split("; ")
        text = f"{rule} {first}"
    assert (beyond(parse(text)) is None) is covered
