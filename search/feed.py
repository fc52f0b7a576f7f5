"""Feed: the training batches of a task, in one order whoever asks for them.

A pass over the rows is a random permutation cut into batches; rows that do not fill a batch are
dropped. Numbers are drawn on the generator's device, so an order is a function of seed and device.
"""

import torch
from torch import Tensor

from search.task import Split, Task


class Order:
    """Row numbers of batches without end, `take`n some at a time."""

    def __init__(self, rows: int, size: int, generator: torch.Generator) -> None:
        self.rows, self.size, self.generator = rows, min(size, rows), generator
        self.left = torch.empty(0, self.size, dtype=torch.long, device=generator.device)

    def take(self, most: int) -> Tensor:
        """The rows of the next 1..`most` batches, [n, size]: never those of two passes."""
        if not len(self.left):
            device = self.generator.device
            order = torch.randperm(self.rows, generator=self.generator, device=device)
            self.left = order[: self.rows // self.size * self.size].view(-1, self.size)
        found, self.left = self.left[:most], self.left[most:]
        return found


class Feed:
    """The batches of `part`: rows of it, or what the task draws, augmented where it says so."""

    def __init__(self, task: Task, part: Split, generator: torch.Generator) -> None:
        self.task, self.part, self.generator = task, part, generator
        self.size = min(task.budget.batch, len(part))
        self.order = None if task.batch else Order(len(part), self.size, generator)

    def batch(self, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        """The batch of these rows, or a drawn one where the task draws its own."""
        if self.task.batch is not None:
            x, y = self.task.batch(self.part, self.generator, self.size)
        else:
            assert rows is not None
            x, y = self.part.x.index_select(0, rows), self.part.y.index_select(0, rows)
        return (x if self.task.augment is None else self.task.augment(x, self.generator)), y

    def next(self) -> tuple[Tensor, Tensor]:
        """The next batch."""
        return self.batch(None if self.order is None else self.order.take(1)[0])
