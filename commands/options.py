"""Arguments and options that several commands share."""

from typing import Annotated

import typer

Text = Annotated[str, typer.Argument(help="a file, a shipped name or the text itself")]
Study = Annotated[str, typer.Argument(help="the name of a study")]
TaskOption = Annotated[str | None, typer.Option("--task", help="fit it to this task")]
InputOption = Annotated[str | None, typer.Option("--input", help="a type such as 'seq[256,64]'")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, errors too")]
Count = Annotated[float | None, typer.Option(help="at most this many")]
Depth = Annotated[float | None, typer.Option(help="ops on the longest path, at most")]
Memory = Annotated[float | None, typer.Option(help="bytes of activations a sample, at most")]
Set = Annotated[list[str] | None, typer.Option(help="name=number of a let value")]
