"""The rule that convolutions share: groups divide both widths."""

from ops.spec import Mismatch


def need_groups(channels: int, dim: int, groups: int, depthwise: bool) -> int:
    """The number of groups of a convolution from `channels` to `dim`.

    Raises: Mismatch unless it divides both, or, depthwise, unless the widths are equal.
    """
    if depthwise:
        if groups != 1:
            raise Mismatch(
                f"groups={groups} and depthwise exclude each other",
                param="groups",
                hint="leave groups out: depthwise has one per channel",
            )
        if dim != channels:
            raise Mismatch(
                f"depthwise keeps the width, dim={dim} is not {channels}",
                param="dim",
                hint=f"dim must be {channels} here",
            )
        return channels
    if channels % groups or dim % groups:
        fits = [n for n in range(1, min(channels, dim, 64) + 1) if channels % n == dim % n == 0]
        raise Mismatch(
            f"groups={groups} does not divide both {channels} and dim={dim}",
            param="groups",
            hint=f"groups may be {', '.join(map(str, fits))} here",
        )
    return groups
