"""Comma-separated numbers, plain or gzipped, as one float tensor."""

import gzip
import io

import numpy as np
import torch
from torch import Tensor

from grammar.errors import DataError


def parse(content: bytes, *, rows: int, columns: int) -> Tensor:
    """The numbers of a table [rows, columns], float32.

    Raises: DataError if the shape is another.
    """
    text = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    found = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.float32, ndmin=2)
    if found.shape != (rows, columns):
        raise DataError(f"a table has shape {found.shape}, expected {(rows, columns)}")
    return torch.from_numpy(found)
