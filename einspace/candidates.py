"""Candidates: what strategies propose. A frame is a space, a task's interface and a budget."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from einspace.compile import Closed
from einspace.interface import Interface
from einspace.library import space_source
from einspace.types import Typing
from grammar.ast import Space
from grammar.derive import derive
from grammar.mutate import Operator, offspring
from grammar.normal import text_of
from grammar.parse import parse
from grammar.pcfg import check_space, with_values
from grammar.walk import Chooser, Limits, Sample
from ops import table


@dataclass(frozen=True, slots=True)
class Candidate:
    """One valid architecture: its normal form and id, the trace that made it and its cost.

    `log_prob` (natural) is of the grammar's own distribution; `tries` counts whole draws.
    """

    text: str
    hash: str
    trace: Mapping[str, int] = field(default_factory=dict)
    log_prob: float = 0.0
    params: int = 0
    flops: int = 0
    nodes: int = 0
    tries: int = 1


@dataclass(frozen=True, slots=True)
class Frame:
    """Where candidates come from, checked once."""

    name: str
    text: str
    space: Space
    typing: Typing
    limits: Limits


def frame(
    space: str,
    interface: Interface,
    *,
    max_params: int | None = None,
    max_flops: int | None = None,
    max_nodes: int | None = None,
    values: Mapping[str, float] | None = None,
) -> Frame:
    """Load and check a space: a path, a shipped name or inline text; `values` replace `let` values.

    Raises: SpaceError.
    """
    source = space_source(space)
    tree = parse(source.text, source.name)
    if values:
        tree = with_values(tree, values)
    typing = Typing(table(), interface)
    check_space(tree, typing.signatures, tuple(interface.inputs))
    limits = Limits(max_nodes or 20_000, max_params, max_flops)
    return Frame(source.name, source.text, tree, typing, limits)


def draw(frame: Frame, chooser: Chooser) -> Candidate:
    """The chooser's first valid derivation. Raises: SpaceError when nothing fits."""
    found, tries = derive(frame.space, chooser, frame.typing, frame.limits)
    text, hash_ = text_of(found.closed, frame.typing.signatures)
    return Candidate(
        text, hash_, found.trace, found.log_prob, found.params, found.flops, found.nodes, tries
    )


def sample(frame: Frame, rng: random.Random) -> Candidate:
    """A draw from the grammar's own distribution, choices that do not fit redrawn."""
    return draw(frame, Sample(rng))


def breed(
    frame: Frame, operator: Operator, traces: Sequence[Mapping[str, int]], rng: random.Random
) -> tuple[Candidate, Operator]:
    """A child of one parent, of two for `crossover`, and the operator that made it.

    Raises: SpaceError when nothing fits any more.
    """
    found, used = offspring(frame.space, operator, traces, frame.typing, frame.limits, rng)
    text, hash_ = text_of(found.closed, frame.typing.signatures)
    costs = found.params, found.flops, found.nodes
    return Candidate(text, hash_, found.trace, found.log_prob, *costs), used


def candidate_of(text: str, interface: Interface, name: str = "<text>") -> Candidate:
    """An architecture given as text. Raises: SpaceError."""
    typing = Typing(table(), interface)
    tree = parse(text, name)
    check_space(tree, typing.signatures, tuple(interface.inputs))
    found, _ = derive(tree, Closed(), typing, Limits())
    normal_text, hash_ = text_of(found.closed, typing.signatures)
    return Candidate(normal_text, hash_, {}, 0.0, found.params, found.flops, found.nodes)
