"""Candidates: what strategies propose. Draws come from the sums over a space (`einspace/draws.py`);
mutants and crossings are walked, with the traces of their parents."""

import random
from collections.abc import Mapping, Sequence

from einspace.compile import Closed
from einspace.draws import conditioned, sums_of
from einspace.frame import Candidate, Frame, frame
from einspace.interface import Interface
from einspace.optable import table
from einspace.space_facts import candidate
from einspace.types import Typing
from grammar.derive import derive
from grammar.exact import replay
from grammar.mutate import Operator, offspring
from grammar.normal import Named, named
from grammar.parse import parse
from grammar.pcfg import check_space
from grammar.taught import Taught
from grammar.walk import Chooser, Derivation, Limits

__all__ = [
    "Candidate",
    "Frame",
    "breed",
    "candidate_of",
    "draw",
    "frame",
    "sample",
    "taught_sample",
    "uniform",
]


def draw(frame: Frame, chooser: Chooser) -> Candidate:
    """The chooser's first valid derivation. Raises: SpaceError when nothing fits."""
    found, tries = derive(frame.space, chooser, frame.typing, frame.limits)
    return _walked(frame, found, named(found.closed, frame.typing.signatures), tries)


def _walked(frame: Frame, found: Derivation, form: Named, tries: int = 1) -> Candidate:
    log_prob, kind = conditioned(frame, found.log_prob)
    costs = found.params, found.flops, found.nodes
    return Candidate(form.text, form.hash, found.trace, log_prob, *costs, tries, kind, form.closed)


def sample(frame: Frame, rng: random.Random) -> Candidate:
    """A draw from the grammar's own distribution, conditioned on validity and budget.

    Raises: SpaceError when nothing fits.
    """
    sums = sums_of(frame)
    return candidate(frame, sums, sums.sample(rng))


def taught_sample(frame: Frame, source: Taught, rng: random.Random) -> Candidate:
    """A draw under other weights (`einspace.draws.taught`), as a candidate of the frame's own.

    Raises: SpaceError when nothing fits.
    """
    found = replay(frame.space, source.draw(rng), frame.typing, frame.limits)
    return _walked(frame, found, named(found.closed, frame.typing.signatures))


def uniform(frame: Frame, rng: random.Random, nodes: int | None = None) -> Candidate:
    """A draw with all derivations of this size (None: of any) equally likely.

    Raises: SpaceError when nothing fits, or the sums are not exact.
    """
    sums = sums_of(frame)
    return candidate(frame, sums, sums.uniform(rng, nodes))


def breed(
    frame: Frame, operator: Operator, traces: Sequence[Mapping[str, int]], rng: random.Random
) -> tuple[Candidate, Operator]:
    """A child of one parent, of two for `crossover`, and the operator that made it.

    Raises: SpaceError when nothing fits any more.
    """
    found, form, used = offspring(
        frame.space, operator, traces, frame.typing, frame.limits, rng, frame.held.parents
    )
    return _walked(frame, found, form), used


def candidate_of(text: str, interface: Interface, name: str = "<text>") -> Candidate:
    """An architecture given as text. Raises: SpaceError."""
    typing = Typing(table(), interface)
    tree = parse(text, name)
    check_space(tree, typing.signatures, tuple(interface.inputs))
    found, _ = derive(tree, Closed(), typing, Limits())
    form = named(found.closed, typing.signatures)
    costs = found.params, found.flops, found.nodes
    return Candidate(form.text, form.hash, {}, 0.0, *costs, closed=form.closed)
