"""Whatever the text: nothing but a `SpaceError`."""

import random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from grammar.errors import SpaceError
from grammar.parse import parse
from grammar.pcfg import check_space
from tests.grammar.test_pcfg import EINSPACE, TABLE

SOUP = [
    "a",
    "net",
    "norm",
    "attn",
    "heads",
    "linear",
    "dim",
    "let",
    "fix",
    "as",
    "by",
    "true",
    "none",
    "id",
    "head",
    "residual",
    "fork",
    "each",
    "same",
    "tied",
    ">>",
    "|",
    "+",
    "*",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ";",
    ":",
    "=",
    "..",
    "@e",
    "@e[]",
    "@e[0]",
    "1",
    "0.5",
    "-3",
    "1e9",
    '"',
    "#",
    "\n",
    "\\",
]


def attempt(text: str) -> None:
    try:
        check_space(parse(text), TABLE)
    except SpaceError as error:
        told = error.render()
    else:
        return
    assert told


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=60) | st.lists(st.sampled_from(SOUP), max_size=25).map(" ".join))
@example("\x00")
@example("@e[" * 300)
def test_any_text_ends_in_a_space_error_or_a_tree(text: str) -> None:
    attempt(text)


def _damaged(rng: random.Random) -> str:
    text = list(EINSPACE)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(text))
        text[at : at + rng.randint(0, 5)] = rng.choice(SOUP)
    return "".join(text)


def test_damaged_spaces_end_in_a_space_error_or_a_tree() -> None:
    rng = random.Random(0)
    for _ in range(1_000):
        attempt(_damaged(rng))


@pytest.mark.slow
def test_twenty_thousand_damaged_spaces() -> None:
    rng = random.Random(1)
    for _ in range(20_000):
        attempt(_damaged(rng) if rng.random() < 0.7 else " ".join(rng.choices(SOUP, k=20)))
