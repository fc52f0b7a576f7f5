"""The rules that MLPs share: which inputs, and how wide the hidden layer is."""

import math
from typing import Any

from ops.spec import TensorType, need


def gated_hidden(dim: int, mult: float) -> int:
    """The hidden width of a gated MLP: mult * dim, rounded up to a multiple of 8."""
    return max(8, 8 * math.ceil(mult * dim / 8 - 1e-9))


def mlp_shape(x: TensorType, **_: Any) -> TensorType:
    """MLPs keep a seq or a vec; each vector is mapped on its own."""
    need(x, "seq", "vec")
    return x
