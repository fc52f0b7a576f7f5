"""The shape rule that image pools share."""

from ops.spec import Mismatch, TensorType, image, need


def pooled(x: TensorType, kernel: int, stride: int | None) -> TensorType:
    """The image after windows of `kernel`, `stride` apart (none: side by side), without padding.

    Raises: Mismatch when the image is smaller than a window.
    """
    need(x, "image")
    channels, height, width = x.shape
    if kernel > min(height, width):
        raise Mismatch(
            f"kernel={kernel} is larger than the {height} x {width} image",
            param="kernel",
            hint=f"kernel may be at most {min(height, width)} here",
        )
    step = stride or kernel
    return image(channels, (height - kernel) // step + 1, (width - kernel) // step + 1)
