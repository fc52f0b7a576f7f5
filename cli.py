"""The command line: parses arguments, calls one function, prints.

Heavy imports stay inside the commands, so that `--help` is quick.
"""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from einspace.compile import Compiled
    from einspace.interface import Interface
    from grammar.errors import Source

app = typer.Typer(
    name="einspace",
    help="Neural architectures as text: check, compile, search, track, export.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Text = Annotated[str, typer.Argument(help="a file, a shipped name or the text itself")]
TaskOption = Annotated[str | None, typer.Option("--task", help="fit it to this task")]
InputOption = Annotated[str | None, typer.Option("--input", help="a type such as 'seq[256,64]'")]
Json = Annotated[bool, typer.Option("--json", help="print JSON, errors too")]
Count = Annotated[float | None, typer.Option(help="at most this many")]
Runs = Annotated[str, typer.Argument(help="the name of a study")]


# -- helpers -------------------------------------------------------------------------------------


def _say(message: str) -> None:
    typer.echo(message)


def _dump(value: object) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))


def _resolve(text: str, task: str | None, kind: str | None) -> "tuple[Source, Interface]":
    """The text that is meant, and the interface to fit it to."""
    from einspace.interface import Interface
    from einspace.library import resolve
    from grammar.errors import SpaceError
    from ops.spec import parse_type
    from search.tasks import find

    source, default = resolve(text)
    if task and kind:
        raise SpaceError("give --task or --input, not both")
    if kind:
        try:
            return source, Interface({"x": parse_type(kind)})
        except ValueError as error:
            raise SpaceError(str(error)) from None
    name = task or default
    if name is None:
        raise SpaceError("nothing says what flows in", hint="add --task NAME or --input TYPE")
    return source, find(name).interface


def _compiled(text: str, task: str | None, kind: str | None) -> "Compiled":
    from einspace.compile import compile_text

    source, interface = _resolve(text, task, kind)
    return compile_text(source.text, interface, source.name)


def _facts(found: "Compiled") -> dict[str, Any]:
    return {
        "ok": True,
        "text": found.text,
        "hash": found.hash,
        "input": found.input,
        "output": found.output,
        "params": found.params,
        "flops": found.flops,
        "state_bytes": found.state_bytes,
        "causal": found.causal,
        "nodes": found.nodes,
        "depth": found.depth,
    }


def _values(sets: list[str] | None) -> dict[str, float]:
    from grammar.errors import SpaceError

    found = {}
    for item in sets or []:
        name, _, value = item.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise SpaceError(f"--set {item} is not name=number") from None
    return found


# -- one architecture ----------------------------------------------------------------------------


@app.command()
def check(
    text: Text, task: TaskOption = None, input: InputOption = None, json: Json = False
) -> None:
    """Prove that an architecture fits: types, parameters, FLOPs, causality."""
    found = _compiled(text, task, input)
    facts = _facts(found)
    if json:
        return _dump(facts)
    _say(found.text)
    _say(f"{found.input} -> {found.output}   id {found.hash}")
    _say(f"{found.params:,} parameters, {found.flops:,} FLOPs, {found.state_bytes:,} state bytes")
    _say(f"{found.nodes} nodes, depth {found.depth}, {'causal' if found.causal else 'not causal'}")


@app.command()
def show(
    text: Text,
    task: TaskOption = None,
    input: InputOption = None,
    out: Annotated[Path | None, typer.Option("-o", help="x.svg, x.png or x.txt")] = None,
) -> None:
    """Draw an architecture: as text here, or to an SVG, PNG or text file."""
    from einspace.draw import save, to_text

    found = _compiled(text, task, input)
    if out is None:
        return _say(to_text(found.graph))
    save(found.graph, out)
    _say(f"wrote {out}")


@app.command()
def fmt(text: Text) -> None:
    """Print a text in canonical form."""
    from einspace.library import resolve
    from grammar.show import fmt as canonical

    source, _ = resolve(text)
    _say(canonical(source.text, source.name))


@app.command()
def code(text: Text, task: TaskOption = None, input: InputOption = None) -> None:
    """Print the PyTorch file that an architecture compiles to."""
    _say(_compiled(text, task, input).source)


@app.command()
def sample(
    space: Text,
    n: Annotated[int, typer.Option("-n", min=1, max=1_000_000, help="how many")] = 10,
    seed: int = 0,
    task: TaskOption = None,
    input: InputOption = None,
    max_params: Count = None,
    max_flops: Count = None,
    max_nodes: Count = None,
    set: Annotated[list[str] | None, typer.Option(help="name=number of a let value")] = None,
    json: Json = False,
) -> None:
    """Draw valid architectures from a space."""
    import random

    from einspace.candidates import frame
    from einspace.candidates import sample as draw

    source, interface = _resolve(space, task, input)
    limits = [None if v is None else int(v) for v in (max_params, max_flops, max_nodes)]
    place = frame(
        space,
        interface,
        max_params=limits[0],
        max_flops=limits[1],
        max_nodes=limits[2],
        values=_values(set),
    )
    rng = random.Random(seed)
    for _ in range(n):
        found = draw(place, rng)
        row = {
            k: getattr(found, k) for k in ("text", "hash", "log_prob", "params", "flops", "nodes")
        }
        if json:
            _dump(row)
        else:
            _say(f"{found.hash}  {found.params:>10,} parameters  {found.text}")


# -- what is shipped -----------------------------------------------------------------------------


@app.command()
def ops(
    action: Annotated[str, typer.Argument(help="list, or show")] = "list",
    name: Annotated[str | None, typer.Argument(help="an op, for show")] = None,
    json: Json = False,
) -> None:
    """List the words of the language, or show one."""
    import inspect

    from grammar.errors import SpaceError, did_you_mean
    from ops import families, table

    rows = table()
    if action == "show":
        if name not in rows:
            raise SpaceError(f"there is no op {name!r}", hint=did_you_mean(str(name), rows))
        module = inspect.getmodule(rows[name].module)
        assert module is not None
        _say(inspect.getdoc(module) or "")
        for param, domain in rows[name].params.items():
            _say(f"  {param} = {domain.default!r}: {domain.describe()}")
        return
    if action != "list":
        raise SpaceError(f"'ops {action}' is not a command", hint="ops list, or ops show NAME")
    kinds = families()
    found = [
        {
            "name": op.name,
            "family": kinds[op.name],
            "causal": op.causal if isinstance(op.causal, bool) else "depends",
            "params": {k: d.describe() for k, d in op.params.items()},
            "state": op.state,
            "paper": op.paper,
        }
        for op in rows.values()
    ]
    if json:
        return _dump(found)
    for row in found:
        _say(f"{row['name']:<16} {row['family']:<10} {', '.join(row['params'])}")  # type: ignore[arg-type]  # a dict


@app.command()
def tasks(json: Json = False) -> None:
    """List the tasks."""
    from search.tasks import tasks as known

    rows = [
        {
            "name": t.name,
            "about": t.about,
            "inputs": {k: str(v) for k, v in t.interface.inputs.items()},
            "target": str(t.interface.target),
            "metric": t.metric,
            "direction": t.direction,
        }
        for t in known().values()
    ]
    if json:
        return _dump(rows)
    for row in rows:
        kinds = ", ".join(dict(row["inputs"]).values())  # type: ignore[call-overload]  # a dict
        _say(f"{row['name']:<14} {kinds} -> {row['target']}   {row['metric']}: {row['about']}")


def _list(kind: str, as_json: bool) -> None:
    from einspace.library import shipped

    rows = shipped("spaces" if kind == "spaces" else "seeds").values()
    if as_json:
        return _dump([{"name": r.name, "about": r.about, "task": r.task} for r in rows])
    for row in rows:
        _say(f"{row.name:<14} {row.task or '-':<12} {row.about}")


@app.command()
def spaces(json: Json = False) -> None:
    """List the shipped search spaces."""
    _list("spaces", json)


@app.command()
def seeds(json: Json = False) -> None:
    """List the shipped seed architectures."""
    _list("seeds", json)


# -- entry ---------------------------------------------------------------------------------------


def main() -> None:
    """Run the command line; a fault of the user is one message and exit code 2."""
    from grammar.errors import UserError

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        app()
    except UserError as error:
        if "--json" in sys.argv:
            _dump({"ok": False, "errors": [error.as_dict()]})
        else:
            typer.echo(error.render(), err=True)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
