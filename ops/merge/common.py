"""The shape rule that elementwise merges share."""

from dataclasses import replace

from ops.spec import Mismatch, TensorType


def same_types(*xs: TensorType) -> TensorType:
    """The common type of at least two values; padded if any of them may be.

    Raises: Mismatch when they differ.
    """
    if len(xs) < 2:
        raise Mismatch("needs two values or more", hint="write a + b, or fork(a, b) before it")
    first = xs[0]
    for other in xs[1:]:
        if other.kind != first.kind or other.shape != first.shape:
            raise Mismatch(f"{first} and {other} differ", hint="all values need one shape")
        if first.kind in ("tokens", "tuple", "items"):
            raise Mismatch(f"{first} cannot be merged element by element")
    return replace(first, may_pad=any(x.may_pad for x in xs))
