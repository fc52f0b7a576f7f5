"""What a command prints: text, JSON, and words on the side."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer


def say(message: str) -> None:
    """A line of the answer."""
    typer.echo(message)


def dump(value: object) -> None:
    """The answer as one line of JSON."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def complain(message: str) -> None:
    """A line beside the answer, on stderr."""
    typer.echo(message, err=True)


@contextmanager
def hushed() -> Iterator[None]:
    """Drops what libraries write past Python to stderr, such as the profiler's own lines."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
