"""What a command prints: text, JSON, and words on the side."""

import json

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
