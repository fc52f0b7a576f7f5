"""Hand-written files in the form of emitted ones; a body line may misbehave on purpose."""

HEAD = """
import os
import time

import torch
from torch import Tensor, nn
"""

BODY = """

class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.head = nn.Linear(8 * 16, 10)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_aux(x)[0]

    def forward_aux(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        y = nn.functional.max_pool2d(self.conv(x).relu(), 2).flatten(1)
        TRICK
        return self.head(y), y.new_zeros(()), (y.new_ones(()),)

    def update(self, stats: tuple[Tensor, ...]) -> None:
        self.steps += stats[0]
"""


def source(trick: str = "pass") -> str:
    """A small convolutional net for 8 x 8 digits whose forward also does `trick`."""
    return HEAD + BODY.replace("TRICK", trick)
