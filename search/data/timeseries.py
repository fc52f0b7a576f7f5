"""The `.ts` text format of time series: one case a line, channels by ":", values by ",".

Lines that start with @ or # are the header; the last field of a case is its class, from 1.
"""

import torch
from torch import Tensor

from grammar.errors import DataError


def parse(content: bytes, *, classes: int, cases: int) -> tuple[list[Tensor], Tensor]:
    """All cases of one or more joined files, each [T, channels], and their classes from 0.

    Raises: DataError if this is no such text, or the number of cases is another.
    """
    found, labels = [], []
    try:
        for line in map(str.strip, content.decode().splitlines()):
            if not line or line[0] in "@#":
                continue
            *channels, label = line.split(":")
            values = [[float(v) for v in channel.split(",")] for channel in channels]
            found.append(torch.tensor(values).T.contiguous())
            labels.append(int(label) - 1)
    except ValueError as error:
        raise DataError(f"not a time-series file: {error}") from error
    if len(found) != cases:
        raise DataError(f"{len(found)} time series, expected {cases}")
    if not 0 <= min(labels) <= max(labels) < classes:
        raise DataError(f"classes of a time-series file are not 1 to {classes}")
    return found, torch.tensor(labels)


def padded(cases: list[Tensor], length: int) -> Tensor:
    """[N, length, channels], zero rows after the end of a case.

    Raises: DataError if a case is too long or holds a row of zeros, which would read as padding.
    """
    out = torch.zeros(len(cases), length, cases[0].shape[1])
    for row, case in zip(out, cases, strict=True):
        if len(case) > length or not bool((case != 0).any(1).all()):
            raise DataError(f"a series of length {len(case)} cannot be padded to {length}")
        row[: len(case)] = case
    return out
