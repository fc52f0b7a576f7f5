"""One architecture: prove it, draw it, print it."""

from pathlib import Path
from typing import Annotated

import typer

from commands.console import dump, say
from commands.options import InputOption, Json, OpsOption, TaskOption, Text


def check(
    text: Text,
    task: TaskOption = None,
    input: InputOption = None,
    json: Json = False,
    ops: OpsOption = None,
) -> None:
    """Prove that an architecture fits: types, parameters, FLOPs, causality."""
    from search.texts import compiled, facts

    found = compiled(text, task, input)
    if json:
        return dump(facts(found))
    say(found.text)
    say(f"{found.input} -> {found.output}   id {found.hash}")
    say(f"{found.params:,} parameters, {found.flops:,} FLOPs, {found.state_bytes:,} state bytes")
    say(f"{found.nodes} nodes, depth {found.depth}, {'causal' if found.causal else 'not causal'}")


def show(
    text: Text,
    task: TaskOption = None,
    input: InputOption = None,
    out: Annotated[Path | None, typer.Option("-o", help="x.svg, x.png or x.txt")] = None,
    ops: OpsOption = None,
) -> None:
    """Draw an architecture: as text here, or to an SVG, PNG or text file."""
    from einspace.draw import to_text
    from einspace.render import save
    from search.texts import compiled

    found = compiled(text, task, input)
    if out is None:
        return say(to_text(found.graph))
    save(found.graph, out)
    say(f"wrote {out}")


def fmt(text: Text, ops: OpsOption = None) -> None:
    """Print a text in canonical form."""
    from einspace.library import resolve
    from grammar.show import fmt as canonical

    source, _ = resolve(text)
    say(canonical(source.text, source.name))


def code(
    text: Text, task: TaskOption = None, input: InputOption = None, ops: OpsOption = None
) -> None:
    """Print the PyTorch file that an architecture compiles to."""
    from search.texts import compiled

    say(compiled(text, task, input).source)
