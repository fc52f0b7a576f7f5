"""A frame: a space, a task's interface and a budget, checked once; and what comes out of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from einspace.interface import Interface
from einspace.library import space_source
from einspace.optable import table
from einspace.types import Typing
from grammar.ast import Space
from grammar.mutate import Parents
from grammar.parse import parse
from grammar.pcfg import Checked, check_space, with_values
from grammar.walk import Limits


@dataclass(frozen=True, slots=True)
class Candidate:
    """One valid architecture: its normal form and id, the trace that made it and its cost.

    `log_prob` (natural) is of this derivation in the distribution conditioned on validity and
    budget: exact, or (`kind`) less an estimated normaliser. `tries` counts whole draws. `closed` is
    the tree of `text` where it is known, which spares parsing it.
    """

    text: str
    hash: str
    trace: Mapping[str, int] = field(default_factory=dict)
    log_prob: float = 0.0
    params: int = 0
    flops: int = 0
    nodes: int = 0
    tries: int = 1
    kind: Literal["exact", "estimate"] = "exact"
    closed: Space | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class Held:
    """What is built once a frame, when it is first asked for; the last parents that bred."""

    sums: object = None
    sites: object = None
    forest: object = None
    parents: Parents = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frame:
    """Where candidates come from, checked once; `held` is what draws and breeding build."""

    name: str
    text: str
    space: Space
    typing: Typing
    limits: Limits
    checked: Checked
    held: Held = field(default_factory=Held, compare=False, repr=False)


def frame(
    space: str,
    interface: Interface,
    *,
    max_params: int | None = None,
    max_flops: int | None = None,
    max_nodes: int | None = None,
    max_depth: int | None = None,
    max_memory: int | None = None,
    values: Mapping[str, float] | None = None,
) -> Frame:
    """Load and check a space: a path, a shipped name or inline text; `values` replace `let` values.

    `max_depth` bounds the longest path in ops, `max_memory` the bytes of activations that one
    sample keeps for the backward pass (outputs and exports of all ops, and what ops keep beside).
    Raises: SpaceError.
    """
    source = space_source(space)
    tree = parse(source.text, source.name)
    if values:
        tree = with_values(tree, values)
    typing = Typing(table(), interface, depth=max_depth)
    checked = check_space(tree, typing.signatures, tuple(interface.inputs))
    limits = Limits(max_nodes or Limits().nodes, max_params, max_flops, memory=max_memory)
    return Frame(source.name, source.text, tree, typing, limits, checked)
