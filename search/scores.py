"""Losses and metrics that tasks share; a label of -100 counts nowhere."""

import math

from torch import Tensor
from torch.nn import functional as F

from ops.kernels.rows import row_loss

IGNORE = -100


def cross_entropy(y: Tensor, target: Tensor) -> Tensor:
    """Mean negative log likelihood in nats; y [..., C], target [...]."""
    return row_loss(y.flatten(0, -2), target.flatten(), IGNORE)


def accuracy(y: Tensor, target: Tensor) -> tuple[float, int]:
    """(hits, labelled positions)."""
    labelled = target != IGNORE
    hits = (y.argmax(-1) == target) & labelled
    return float(hits.sum()), int(labelled.sum())


def bits(y: Tensor, target: Tensor) -> tuple[float, int]:
    """(summed negative log2 likelihood, labelled positions)."""
    nats = F.cross_entropy(
        y.flatten(0, -2).float(), target.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    return float(nats) / math.log(2), int((target != IGNORE).sum())
