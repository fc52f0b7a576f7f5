"""What generators of synthetic tasks share: distinct draws, shifted labels, a checksum."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from search.scores import IGNORE

CHUNK = 2**22  # uniform numbers held at once by `distinct`


def distinct(space: int, rows: int, count: int, *, generator: torch.Generator) -> Tensor:
    """[rows, count]: each row holds different numbers of 0..space-1, every order equally likely.

    Raises: ValueError if `space` holds fewer than `count`.
    """
    if count > space:
        raise ValueError(f"{count} different numbers do not exist among {space}")
    step = max(1, CHUNK // space)
    drawn = [
        torch.rand(min(step, rows - start), space, generator=generator).topk(count, dim=1).indices
        for start in range(0, rows, step)
    ]
    return torch.cat(drawn)


def shifted(tokens: Tensor, labelled: Tensor) -> Tensor:
    """Labels: the token that follows where `labelled` marks it; -100 elsewhere and at the end."""
    y = torch.full_like(tokens, IGNORE)
    y[:, :-1] = torch.where(labelled, tokens, IGNORE)[:, 1:]
    return y


def sha256(tensors: Iterable[Tensor]) -> str:
    """Of the bytes of all tensors, in order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
