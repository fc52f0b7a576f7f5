"""What the compiler must know of a task: the types at both ends."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ops.spec import TensorType


@dataclass(frozen=True, slots=True)
class Interface:
    """Input types by name, the type wanted at the end, and whether the graph must be causal.

    A task with one input has it as the implicit incoming value; with several there is none.
    `target` is None for a bare `--input` check: then `head` has nothing to aim at.
    """

    inputs: Mapping[str, TensorType]
    target: TensorType | None = None
    causal: bool = False
    outputs: Mapping[str, TensorType] = field(default_factory=dict)
