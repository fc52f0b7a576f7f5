"""Arguments and options that several commands share."""

from collections.abc import Sequence
from typing import Annotated

import typer


def _enable(files: Sequence[str] | None) -> Sequence[str] | None:
    """Makes the files' ops words of this process and of those that it starts."""
    if files:
        from einspace.opfiles import enable

        enable(files)
    return files


Text = Annotated[str, typer.Argument(help="a file, a shipped name or the text itself")]
Study = Annotated[str, typer.Argument(help="the name of a study")]
TaskOption = Annotated[str | None, typer.Option("--task", help="fit it to this task")]
InputOption = Annotated[str | None, typer.Option("--input", help="a type such as 'seq[256,64]'")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, errors too")]
Count = Annotated[float | None, typer.Option(help="at most this many")]
Depth = Annotated[float | None, typer.Option(help="ops on the longest path, at most")]
Memory = Annotated[float | None, typer.Option(help="bytes of activations a sample, at most")]
Set = Annotated[list[str] | None, typer.Option(help="name=number of a let value")]
# The value is used by the callback alone.
OpsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ops",
        callback=_enable,
        metavar="FILE",
        help="a Python file with OP or OPS of your own; it is code and is run",
    ),
]
