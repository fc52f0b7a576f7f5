"""The closed set of forms that take expressions, and the reserved words."""

from collections.abc import Mapping
from dataclasses import dataclass

RESERVED = frozenset(("let", "fix", "as", "by", "true", "false", "none", "id", "head"))


@dataclass(frozen=True, slots=True)
class Form:
    """How many expressions a form takes, and whether they are given by name.

    `op` forms are also ops: with expressions they reduce these, without they reduce a tuple.
    """

    name: str
    fewest: int
    most: int | None
    named: bool = False
    op: bool = False


FORMS: Mapping[str, Form] = {
    form.name: form
    for form in (
        Form("residual", 1, 1),
        Form("fork", 1, None),
        Form("each", 1, None),
        Form("items", 1, 1),
        Form("cross", 1, 1),
        Form("same", 1, 1),
        Form("tied", 1, 1),
        Form("outputs", 1, None, named=True),
        Form("add", 0, None, op=True),
        Form("mul", 0, None, op=True),
        Form("cat", 0, None, op=True),
        Form("dot", 0, None, op=True),
    )
}
