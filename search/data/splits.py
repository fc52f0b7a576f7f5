"""Splitting rows: seeded permutations, plain or per class, as index tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor


def shuffled(count: int, sizes: Sequence[int], *, seed: int) -> tuple[Tensor, ...]:
    """Disjoint random index sets of the given sizes out of `count` rows."""
    if sum(sizes) > count:
        raise ValueError(f"{count} rows cannot give {sum(sizes)}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return tuple(torch.split(order[: sum(sizes)], list(sizes)))


def stratified(labels: Tensor, fraction: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """(rest, part): `part` holds `fraction` of each class, rounded, in random order."""
    generator = torch.Generator().manual_seed(seed)
    rest, part = [], []
    for label in torch.unique(labels):
        rows = (labels == label).nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), generator=generator)]
        cut = round(fraction * len(rows))
        part.append(rows[:cut])
        rest.append(rows[cut:])
    return torch.cat(rest), torch.cat(part)
