"""Types with their sizes forgotten: what tells roughly how many derivations there are of each size.

All images are one image, all sequences one sequence (with or without a grid), of sides that nearly
every divisor fits. What a blurred op refuses, the sharp one nearly always refuses, too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from einspace.space_facts import Facts
from einspace.types import Ref, Term
from grammar.domain import Scalar
from grammar.walk import Applied, Site
from ops.spec import TensorType

SIDE = 5040


def dull(kind: TensorType) -> TensorType:
    """The one type of this kind."""
    if kind.kind == "image":
        return replace(kind, shape=(SIDE,) * 3)
    if kind.kind == "seq" and kind.grid is not None:
        return replace(kind, shape=(SIDE**2, SIDE), grid=(SIDE, SIDE))
    if kind.kind == "seq":
        return replace(kind, shape=(SIDE, SIDE))
    return kind


class Blurred(Facts):
    """`Algebra` over blurred types."""

    def inputs(self) -> Mapping[str, object]:
        return {name: self.blur(value) for name, value in super().inputs().items()}

    def apply(
        self,
        op: str,
        params: Mapping[str, Scalar],
        values: Sequence[object],
        inputs: Mapping[str, object],
        site: Site,
    ) -> Applied:
        made = super().apply(op, params, values, inputs, site)
        return Applied(self.blur(made.value))

    def blur(self, value: object) -> object:
        """A value, or a tuple of values, with sizes forgotten."""
        if isinstance(value, tuple):
            return tuple(self.blur(v) for v in value)
        if not isinstance(value, Ref):
            return value
        return self._intern(Ref(Term("value", types=(dull(value.type),))))


def blur(algebra: Blurred) -> Callable[[object], object]:
    """`algebra.blur`, each value blurred once."""
    known: dict[object, object] = {}

    def once(value: object) -> object:
        if value not in known:
            known[value] = algebra.blur(value)
        return known[value]

    return once
