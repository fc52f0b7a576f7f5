"""The rule that ops on one axis share."""

from ops.spec import Mismatch, TensorType


def need_axis(x: TensorType, axis: int) -> None:
    """Raises: Mismatch unless `x` has `axis`, counted from 1, and it holds no padding."""
    if axis > len(x.shape):
        raise Mismatch(
            f"axis={axis} of {x}, which has {len(x.shape)}",
            param="axis",
            hint=f"axis may be at most {len(x.shape)} here",
        )
    if x.may_pad and axis == 1:
        raise Mismatch(
            "axis=1 is time, and the input may be padded",
            param="axis",
            hint="only axis=2 on padded input",
        )
