"""A task: data, the types at both ends, loss, metric and budgets.

No task needs its data to give its types. `load` reads it, seeded, and fails with a `DataError`
that prints the pip line when the package is missing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from einspace.interface import Interface


@dataclass(frozen=True, slots=True)
class Split:
    """Inputs and labels of one part, whole in memory: x [N, ...], y [N, ...]."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return int(self.x.shape[0])


@dataclass(frozen=True, slots=True)
class Data:
    """Train, validation and test, with where they came from (`package version sha256`)."""

    train: Split
    val: Split
    test: Split
    provenance: str
    sha256: str
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Budget:
    """Fidelities in epochs: a trial trains `epochs`, is reported at each and may be pruned from
    `min_epochs` on, or ends early after `patience` epochs without a better value (None: never;
    the learning rate keeps the schedule of all epochs); the winner trains
    `epochs * final_factor`. `max_flops`/`max_params` bound what a derivation may cost (None:
    free)."""

    epochs: int
    min_epochs: int = 1
    patience: int | None = None
    final_factor: int = 3
    batch: int = 64
    max_params: int | None = None
    max_flops: int | None = None
    seconds: float | None = None
    memory_bytes: int = 4 * 2**30


@dataclass(frozen=True, slots=True)
class Task:
    """What a candidate is trained for.

    `loss(y, target)` is a scalar; `score(y, target)` gives (sum, count) of the metric over a batch
    so that splits of any size average exactly (for `bits per character`: summed bits, characters).
    `augment(x, generator)` changes a training batch. `steps_per_epoch`: None means one pass.
    `batch(part, generator, size)` draws a training batch where rows of the part would not do.
    `val_items`: how many leading rows of the validation part a search measures (None: all).
    `ref`: what a study stores to find a user's task again; set by `search.usertask`, never by hand.
    """

    name: str
    about: str
    interface: Interface
    metric: str
    direction: Literal["maximize", "minimize"]
    budget: Budget
    load: Callable[[int], Data]
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], tuple[float, int]]
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None
    steps_per_epoch: int | None = None
    batch: Callable[[Split, torch.Generator, int], tuple[Tensor, Tensor]] | None = None
    val_items: int | None = None
    ref: str = ""
