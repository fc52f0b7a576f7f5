"""What crosses between the walk and those who steer it or give it meaning.

An `Algebra` says what an op does to values (types, in `einspace/types.py`); a `Chooser` says which
alternative is taken. The walk in `grammar/derive.py` knows neither tensors nor strategies.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from grammar.ast import Node, Space
from grammar.domain import Scalar, Signature
from grammar.errors import SpaceError


class Infeasible(Exception):
    """This branch cannot be completed; `error` is what a user would be told."""

    def __init__(self, error: SpaceError) -> None:
        super().__init__(error.message)
        self.error = error


def refuse(message: str, node: Node | None = None, hint: str = "") -> Infeasible:
    """An `Infeasible` with the place of `node`."""
    return Infeasible(SpaceError(message, span=node.span if node else None, hint=hint))


@dataclass(frozen=True, slots=True)
class Site:
    """Where an op is applied: whose weights it has, where to point when it does not fit, and the
    name of the task's output that it leads to (none outside `outputs`)."""

    module: str
    layer: int
    node: Node
    params: Mapping[str, Node] = field(default_factory=dict)
    output: str = ""


@dataclass(frozen=True, slots=True)
class Applied:
    """An op's result: its value (a tuple for several) and its price; `memory` is in bytes."""

    value: object
    params: int = 0
    flops: int = 0
    constructor: object = None
    memory: int = 0


class Algebra(Protocol):
    """The meaning of ops over opaque values; several values are a Python tuple of values.

    Every method raises `Infeasible` where something does not fit.
    """

    @property
    def signatures(self) -> Mapping[str, Signature]: ...

    def inputs(self) -> Mapping[str, object]:
        """The task's inputs by name."""

    def apply(
        self,
        op: str,
        params: Mapping[str, Scalar],
        values: Sequence[object],
        inputs: Mapping[str, object],
        site: Site,
    ) -> Applied:
        """The op on `values` (one, unless it is variadic) and its declared `inputs`."""

    def export(self, value: object, name: str, site: Site) -> object:
        """What the op that made `value` exports as `name`."""

    def fold(self, value: object, site: Site) -> object:
        """The inner value of a list axis, for `items`."""

    def unfold(self, value: object, outer: object, site: Site) -> object:
        """Back to a list axis of the extent of `outer`."""

    def finish(self, value: object, site: Site) -> object:
        """The derivation's value, checked against what the task wants."""


class Chooser(Protocol):
    """Picks one of `options` (indices into the full list of alternatives) at an address."""

    def pick(self, address: str, options: Sequence[int], weights: Sequence[float]) -> int: ...


@dataclass(frozen=True, slots=True)
class Sample:
    """Draws by weight: the grammar's own distribution."""

    rng: random.Random

    def pick(self, address: str, options: Sequence[int], weights: Sequence[float]) -> int:
        return self.rng.choices(options, weights)[0]


@dataclass(frozen=True, slots=True)
class First:
    """Takes the first alternative left: with the walk's backtracking, an enumeration in order."""

    def pick(self, address: str, options: Sequence[int], weights: Sequence[float]) -> int:
        return options[0]


@dataclass(frozen=True, slots=True)
class Replay:
    """Follows a trace where it can, and asks `fresh` elsewhere."""

    trace: Mapping[str, int]
    fresh: Chooser

    def pick(self, address: str, options: Sequence[int], weights: Sequence[float]) -> int:
        known = self.trace.get(address, -1)
        return known if known in options else self.fresh.pick(address, options, weights)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a derivation may cost; None is free. `nodes` counts op occurrences, `depth` the nesting
    of rules, `memory` the bytes that one sample keeps for the backward pass."""

    nodes: int = 20_000
    params: int | None = None
    flops: int | None = None
    depth: int = 200
    memory: int | None = None


@dataclass(frozen=True, slots=True)
class Derivation:
    """One closed sentence: its text tree, the choices that led to it, its value and its price.

    `log_prob` (natural) is of the grammar's own distribution, before conditioning on validity.
    `refusals` counts the ops that did not fit on the way.
    """

    closed: Space
    trace: Mapping[str, int]
    value: object
    log_prob: float
    nodes: int
    params: int
    flops: int
    refusals: int
    memory: int = 0
