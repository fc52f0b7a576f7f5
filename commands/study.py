"""A study after its search: its trials, its best, what it teaches, its pages."""

from pathlib import Path
from typing import Annotated

import typer

from commands.console import dump, say
from commands.options import Json, OpsOption, Study
from commands.results import record_of, show_summary, tracking


def status(study: Study, storage: str | None = None, json: Json = False) -> None:
    """The trials of a study."""
    from rich.console import Console

    from search.display import trial_table

    record = record_of(study, storage)
    if not json:
        Console().print(trial_table(record.trials, record.metric, record.objectives))
    show_summary(record, json)


def best(study: Study, storage: str | None = None, json: Json = False) -> None:
    """The best architecture of a study."""
    show_summary(record_of(study, storage), json)


def learn(
    study: Study,
    out: Annotated[Path, typer.Option("-o", help="the space file to write")],
    top: Annotated[float, typer.Option(help="the share of finished trials that teach")] = 0.2,
    strength: Annotated[float, typer.Option(help="observations the own weights count")] = 1.0,
    storage: str | None = None,
    force: Annotated[bool, typer.Option(help="replace an existing file")] = False,
    json: Json = False,
    ops: OpsOption = None,
) -> None:
    """Write a study's space with the weights that its best trials teach."""
    from search.learning import learn as teach
    from search.learning import save
    from search.study import open_ledger

    found = teach(open_ledger(study, storage), top=top, strength=strength)
    save(found, out, force=force)
    if json:
        return dump({"out": str(out), "taught": found.taught, "left_out": found.left_out})
    say(f"wrote {out}: {len(found.taught)} trials taught, {len(found.left_out)} could not")


def report(
    study: Study,
    out: Annotated[Path, typer.Option("-o")] = Path("report.html"),
    storage: str | None = None,
    ops: OpsOption = None,
) -> None:
    """Write the report page of a study."""
    from grammar.errors import ExportError
    from registry.report import report_page

    page = report_page(record_of(study, storage))
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ExportError(
            f"cannot write {out}: {error.strerror or error}", hint="give another file with -o"
        ) from error
    say(f"wrote {out}")


def repair(study: Study, storage: str | None = None) -> None:
    """Bring MLflow up to date with the study."""
    if tracking().push(record_of(study, storage)):
        say(f"MLflow shows study {study}")
