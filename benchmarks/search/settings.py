"""Settings: a finite space, a task cut to what one core trains in a second, how it is trained.

The tasks are those of `search/tasks` with fewer rows and steps, because thousands of architectures
are trained. Where the validation part of a task is so small that its accuracy would be a coarse
grid (vowels: 54 rows), the table measures on rows of the official test part as well.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from einspace.interface import Interface
from ops.spec import seq, tokens
from search.data import mad
from search.task import Budget, Data, Split, Task
from search.tasks import find, mqar

SPACES = Path(__file__).parent / "spaces"
RECALL_VOCAB, RECALL_LENGTH, RECALL_PAIRS = 32, 24, 5
MAD_VOCAB, MAD_LENGTH = 12, 32


@dataclass(frozen=True, slots=True)
class Setting:
    """One benchmark: `task` carries budget and batch, `cut` the rows of its data that are used."""

    name: str
    task: Task
    cut: Callable[[Data], Data]
    lr: float
    weight_decay: float = 0.01

    @property
    def space(self) -> Path:
        """The file of the finite space."""
        return SPACES / f"{self.name}.space"

    def load(self) -> Data:
        """The rows the table is made with; every training sees the same ones (data seed 0)."""
        return self.cut(self.task.load(0))


def rows(train: int, val: int, test: int) -> Callable[[Data], Data]:
    """The leading rows of each part."""

    def cut(data: Data) -> Data:
        parts = zip((data.train, data.val, data.test), (train, val, test), strict=True)
        first = [Split(part.x[:n], part.y[:n]) for part, n in parts]
        return replace(data, train=first[0], val=first[1], test=first[2])

    return cut


def widened(more: int, seed: int = 0) -> Callable[[Data], Data]:
    """`more` rows of the test part, drawn once, join validation; the others stay test."""

    def cut(data: Data) -> Data:
        order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(seed))
        moved, kept = order[:more], order[more:]
        val = Split(
            torch.cat([data.val.x, data.test.x[moved]]), torch.cat([data.val.y, data.test.y[moved]])
        )
        return replace(data, val=val, test=Split(data.test.x[kept], data.test.y[kept]))

    return cut


def _recall(seed: int) -> Data:
    """4,000 / 500 / 500 rows of a small associative recall."""
    sizes = [4000, 500, 500]
    generator = torch.Generator().manual_seed(seed)
    x, y = mqar.generate(sum(sizes), RECALL_VOCAB, RECALL_LENGTH, RECALL_PAIRS, generator=generator)
    parts = [Split(a, b) for a, b in zip(x.split(sizes), y.split(sizes), strict=True)]
    return Data(parts[0], parts[1], parts[2], f"mqar generated, seed {seed}", "", "ours")


def _mad(seed: int) -> Data:
    """4,000 / 500 / 500 rows of MAD's in-context recall, with fewer symbols and tokens."""
    generator = torch.Generator().manual_seed(seed)
    parts = [
        Split(*mad.recall(rows, MAD_VOCAB, MAD_LENGTH, all_labels=training, generator=generator))
        for rows, training in ((4000, True), (500, False), (500, False))
    ]
    return Data(parts[0], parts[1], parts[2], f"MAD recall generated, seed {seed}", "", "ours")


def _shorter(task: Task, budget: Budget, steps: int | None = None) -> Task:
    return replace(task, budget=budget, steps_per_epoch=steps)


def settings() -> dict[str, Setting]:
    """All settings by name."""
    recall = replace(
        find("mqar"),
        about=f"associative recall: {RECALL_PAIRS} pairs in {RECALL_LENGTH} tokens",
        interface=Interface(
            {"x": tokens(RECALL_LENGTH, RECALL_VOCAB)},
            target=seq(RECALL_LENGTH, RECALL_VOCAB),
            causal=True,
        ),
        load=_recall,
    )
    mad_recall = replace(
        find("mad_recall"),
        about=f"MAD's in-context recall: {MAD_VOCAB} symbols, {MAD_LENGTH} tokens",
        interface=Interface(
            {"x": tokens(MAD_LENGTH, MAD_VOCAB)}, target=seq(MAD_LENGTH, MAD_VOCAB), causal=True
        ),
        load=_mad,
    )
    found = (
        Setting(
            "digits",
            _shorter(find("digits"), Budget(epochs=5, batch=32), 32),
            widened(135),
            lr=3e-3,
        ),
        Setting(
            "mnist5k",
            _shorter(find("mnist5k"), Budget(epochs=5, batch=50), 36),
            rows(1500, 500, 1000),
            lr=5e-3,
        ),
        Setting(
            "vowels",
            _shorter(find("vowels"), Budget(epochs=7, batch=16)),
            widened(246),
            lr=3e-3,
        ),
        Setting(
            "mqar", _shorter(recall, Budget(epochs=5, batch=64), 40), rows(4000, 500, 500), lr=5e-3
        ),
        Setting(
            "mad_recall",
            _shorter(mad_recall, Budget(epochs=5, batch=64), 40),
            rows(4000, 500, 500),
            lr=5e-3,
        ),
    )
    return {setting.name: setting for setting in found}
