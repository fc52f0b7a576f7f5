"""Traces carried over to an edited grammar."""

import random

import pytest

from einspace.candidates import frame, sample
from einspace.interface import Interface
from grammar.errors import SpaceError
from grammar.migrate import Migrated, migrate
from grammar.show import show
from ops.spec import seq

FLAT = Interface({"x": seq(6, 8)})
OLD = (
    "net = layer * 2..4 >> {relu | gelu}; "
    "layer = linear(dim=4|8) | rms_norm | softmax_attn(heads=1|2);"
)


def moved(text: str, edited: str, seed: int) -> tuple[str, Migrated]:
    """A draw of `text`, and what becomes of it under `edited`."""
    old, new = frame(text, FLAT), frame(edited, FLAT)
    drawn = sample(old, random.Random(seed))
    found = migrate(drawn.trace, old.space, new.space, new.typing, new.limits, random.Random(seed))
    return drawn.text, found


@pytest.mark.parametrize("seed", range(6))
def test_in_the_same_space_everything_is_kept(seed: int) -> None:
    old = frame(OLD, FLAT)
    drawn = sample(old, random.Random(seed))
    _, found = moved(OLD, OLD, seed)
    assert found.drawn == ()
    assert dict(found.derivation.trace) == dict(drawn.trace)


@pytest.mark.parametrize("seed", range(6))
def test_alternatives_may_move_and_be_added(seed: int) -> None:
    edited = OLD.replace("{relu | gelu}", "{silu | gelu | relu}").replace(
        "linear(dim=4|8) | rms_norm |", "silu | rms_norm | linear(dim=8|16|4) |"
    )
    before = frame(OLD, FLAT)
    text = sample(before, random.Random(seed)).text
    _, found = moved(OLD, edited, seed)
    assert found.drawn == ()
    again = sample(before, random.Random(seed))
    assert again.text == text
    # The sentence is the same, though its numbers are others.
    closed = show(found.derivation.closed)
    _, same = moved(OLD, OLD, seed)
    assert closed == show(same.derivation.closed)


def test_what_is_gone_is_drawn_and_the_rest_kept() -> None:
    edited = OLD.replace(" | softmax_attn(heads=1|2)", "")
    some = [moved(OLD, edited, seed) for seed in range(12)]
    assert any("softmax_attn" in text for text, _ in some)
    for text, found in some:
        assert "softmax_attn" not in show(found.derivation.closed)
        assert ("softmax_attn" in text) == bool(found.drawn)
        assert found.kept


def test_a_trace_of_another_space_is_refused() -> None:
    place = frame(OLD, FLAT)
    with pytest.raises(SpaceError, match="does not lead through its own space"):
        migrate({"x": 9}, place.space, place.space, place.typing, place.limits, random.Random(0))
