"""A model as files of its own: write them, run and compare them; and MLflow's pages."""

import re
from pathlib import Path
from typing import Annotated

import typer

from commands.console import dump, say
from commands.options import InputOption, Json, OpsOption, TaskOption
from commands.results import export_winner, tracking


def export(
    what: Annotated[str, typer.Argument(help="a study, a trial's MLflow run, or an architecture")],
    out: Annotated[Path, typer.Option("-o", help="the folder to write")],
    task: TaskOption = None,
    input: InputOption = None,
    storage: str | None = None,
    trial: Annotated[
        int | None, typer.Option(min=0, help="of a study, such as one of the front; default: best")
    ] = None,
    force: Annotated[bool, typer.Option(help="replace a non-empty folder")] = False,
    format: Annotated[str, typer.Option(help="folder, pt2, onnx, hf")] = "folder",
    ops: OpsOption = None,
) -> None:
    """Write a standalone folder: model.py, weights, card. Runs it before reporting success."""
    from grammar.errors import SpaceError
    from registry.export import check_out
    from registry.export import export as write
    from registry.formats import check_format
    from registry.tracker import trial_of
    from search.storage import known_studies
    from search.texts import compiled

    check_format(format)
    check_out(out, force=force)
    if trial is None and re.fullmatch("[0-9a-f]{32}", what):  # what MLflow calls its runs
        what, trial = trial_of(tracking().uri, what) or (what, None)
    if what in known_studies():
        export_winner(what, storage, out, force, format, trial)
    elif trial is not None:
        raise SpaceError(f"trial {trial} of what? {what!r} is no study", hint="leave --trial away")
    else:
        facts = {"weights": "untrained, seed 0"}
        write(compiled(what, task, input), None, out, facts=facts, force=force, fmt=format)
    say(f"exported and verified: {out}")


def verify(folder: Path, json: Json = False) -> None:
    """Run an exported folder's code in a clean interpreter and compare its outputs."""
    from grammar.errors import ExportError
    from registry.verify import verify as run

    found = run(folder)
    if json:
        dump({"ok": found.ok, "max_abs_diff": found.max_abs_diff, "imports": list(found.imports)})
    else:
        say(f"largest difference {found.max_abs_diff:g}; imports {', '.join(found.imports)}")
    if not found.ok:
        raise ExportError(f"{folder} does not give the outputs it was exported with")


def ui(port: Annotated[int, typer.Option(min=1, max=65535)] = 5000) -> None:
    """Open MLflow's pages on 127.0.0.1."""
    from registry.tracker import tracking_uri
    from registry.ui import serve
    from search.storage import runs_dir

    serve(tracking_uri(runs_dir()), port)
