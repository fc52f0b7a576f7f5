"""The words of the language: list them, show one, check those that a user brings."""

from pathlib import Path
from typing import Annotated

import typer

from commands.console import dump, hushed, say
from commands.options import Json, OpsOption

group = typer.Typer(help="List the ops; show one; check your own.", rich_markup_mode=None)


@group.callback(invoke_without_command=True)
def ops(context: typer.Context, json: Json = False, ops: OpsOption = None) -> None:
    """List the ops; show one; check your own."""
    if context.invoked_subcommand is None:
        listed(json=json)


@group.command("list")
def listed(json: Json = False, ops: OpsOption = None) -> None:
    """All ops: family, what they are, causality, how cost and state grow with length, paper."""
    import shutil
    import sys

    from einspace.oppage import listing, rows

    found = rows()
    if json:
        return dump(found)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in listing(found, width):
        say(line)


@group.command()
def show(
    name: Annotated[str, typer.Argument(help="an op")],
    out: Annotated[
        Path | None, typer.Option("-o", help="draw the example: x.svg, x.png or x.txt")
    ] = None,
    json: Json = False,
    ops: OpsOption = None,
) -> None:
    """One op: mathematics, parameters, facts, an example with its cost and drawing."""
    from einspace.opfacts import example
    from einspace.oppage import details, lines
    from einspace.optable import table
    from einspace.render import save

    found = details(name)
    if out is not None:
        save(example(table()[name])[2].graph, out)
    if json:
        return dump(found)
    if out is not None:
        return say(f"wrote {out}")
    for line in lines(found):
        say(line)


@group.command("test")
def checked(
    what: Annotated[
        str, typer.Argument(help="a Python file with OP or OPS, or an op that a package offers")
    ],
    json: Json = False,
    ops: OpsOption = None,
) -> None:
    """Check the contract of ops: shapes, costs, gradients, causality, decoding, source.

    A file is code and is run: give only what you trust. Its CASES, a list of ops.case.Case (or for
    several ops {name: list}), say with which types and parameters; without them cases are made up.
    """
    from dataclasses import asdict

    from einspace.opcheck import findings, wanted
    from grammar.errors import OpError

    book = wanted(what)
    found = []
    with hushed():
        for one in findings(book):
            found.append(one)
            if one.breach and not json:
                say(f"{one.op}  {one.case}  {one.check}: {one.breach}")
    broken = [one for one in found if one.breach]
    if json:
        checks = [{**asdict(one), "ok": not one.breach} for one in found]
        dump({"ok": not broken, "where": book.where, "checks": checks})
        raise typer.Exit(2 if broken else 0)
    for op in book.ops:
        mine = [one for one in found if one.op == op.name]
        bad = sum(bool(one.breach) for one in mine)
        cases = sum(one.check == "types" for one in mine)
        made = "" if book.cases.get(op.name) else ", made up: no CASES"
        verdict = f"{bad} of {len(mine)} checks FAILED" if bad else f"{len(mine)} checks hold"
        say(f"{op.name}: {verdict} ({cases} cases{made})")
    if broken:
        raise OpError(
            f"{len(broken)} checks of {book.where} do not hold",
            hint="docs/CONTRIBUTING.md says what an op must keep",
        )
