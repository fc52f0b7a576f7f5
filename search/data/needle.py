"""Needles and threads among pairs, small (Roberts et al. 2024, arXiv:2411.05000).

A row is a heap of key-value pairs, a question and the answers:

    K V K V ... K V  Q k_1 .. k_T  A v_1 .. v_T

Each answer is what following the pairs from its key for `steps` steps ends at. One thread of one
step is the single needle, several are multiple needles, more steps are threading. Flagged: the keys
are not listed, a token before each pair says whether it is meant, and the answers come in order of
place. Branched: all keys of a thread but the last stand at `branches` pairs, and one leads on.

All keys and values of a row differ, save where a thread links them. The answers but the last stand
in the row too (teacher forcing), so the label at `A` and at each answer is the next answer. Where
the paper has identifiers of 36 characters in JSON, a symbol here is one token.
Solving by lookup is exact; a guess among the symbols is right once in `symbols`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from search.data.draw import distinct
from search.scores import IGNORE

PAIR, FLAG, QUESTION, ANSWER, FIRST = range(5)  # tokens from FIRST on are symbols


@dataclass(frozen=True, slots=True)
class Heap:
    """What a row holds. `direction`: the order of a thread's pairs in the row. `clustered`: needles
    of one step lie side by side. `depth`: the place of a single needle, 0 to 1 (None: anywhere)."""

    pairs: int = 16
    symbols: int = 64
    threads: int = 1
    steps: int = 1
    direction: Literal["forward", "backward", "random"] = "forward"
    branches: int = 1
    flagged: bool = False
    clustered: bool = False
    depth: float | None = None

    def __post_init__(self) -> None:
        used = self.threads * ((self.steps - 1) * self.branches + 1)
        if min(self.threads, self.steps, self.branches) < 1 or used > self.pairs:
            raise ValueError(f"{used} pairs of threads do not fit into {self.pairs}")
        if 2 * self.pairs > self.symbols:
            raise ValueError(f"{self.pairs} pairs need {2 * self.pairs} symbols")
        if (self.flagged or self.clustered) and self.steps > 1:
            raise ValueError("flagged and clustered needles have one step")
        if self.depth is not None and (self.threads, self.steps) != (1, 1):
            raise ValueError("only a single needle has a depth")

    @property
    def vocab(self) -> int:
        """Symbols and the four other tokens."""
        return FIRST + self.symbols

    @property
    def length(self) -> int:
        """Tokens of a row."""
        listed = 0 if self.flagged else self.threads
        return (3 if self.flagged else 2) * self.pairs + 2 + listed + self.threads - 1


def generate(rows: int, heap: Heap, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows [rows, heap.length] and labels, -100 where no answer is wanted."""
    codes = FIRST + distinct(heap.symbols, rows, 2 * heap.pairs, generator=generator)
    keys, values = codes[:, : heap.pairs].clone(), codes[:, heap.pairs :].clone()
    places, spare = _places(rows, heap, generator)
    for step in range(heap.steps - 1):
        here, after = places[:, :, step], places[:, :, step + 1]
        values.scatter_(1, here, keys.gather(1, after))
        for _ in range(heap.branches - 1):
            other, spare = spare[:, : heap.threads], spare[:, heap.threads :]
            keys.scatter_(1, other, keys.gather(1, here))
    ends = places[:, :, -1]
    answers = values.gather(1, ends)
    starts = keys.gather(1, places[:, :, 0])
    x = [_heap(keys, values, ends if heap.flagged else None), torch.full((rows, 1), QUESTION)]
    x += [torch.full((rows, 1), ANSWER), answers[:, :-1]]
    if not heap.flagged:
        x.insert(2, starts)
    row = torch.cat(x, 1)
    labels = torch.full_like(row, IGNORE)
    labels[:, -heap.threads :] = answers
    return row, labels


def _places(rows: int, heap: Heap, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Where the pairs of each thread lie [rows, threads, steps], and the places left over."""
    order = distinct(heap.pairs, rows, heap.pairs, generator=generator)
    if heap.clustered:
        start = torch.randint(heap.pairs - heap.threads + 1, (rows, 1), generator=generator)
        turn = distinct(heap.threads, rows, heap.threads, generator=generator)
        chosen = (start + turn)[:, :, None]
    elif heap.depth is not None:
        chosen = torch.full((rows, 1, 1), round(heap.depth * (heap.pairs - 1)))
    else:
        chosen = order[:, : heap.threads * heap.steps].view(rows, heap.threads, heap.steps)
    if heap.direction != "random":
        chosen = chosen.sort(2, descending=heap.direction == "backward").values
    if heap.flagged:
        chosen = chosen.sort(1).values
    return chosen, order[:, heap.threads * heap.steps :]


def _heap(keys: Tensor, values: Tensor, flagged: Tensor | None) -> Tensor:
    if flagged is None:
        return torch.stack([keys, values], 2).flatten(1)
    marks = torch.full_like(keys, PAIR).scatter(1, flagged, FLAG)
    return torch.stack([marks, keys, values], 2).flatten(1)
