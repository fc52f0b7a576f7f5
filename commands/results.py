"""What commands about a study share: its record, its summary, its winner, its MLflow view."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.console import complain, dump, say

if TYPE_CHECKING:
    from einspace.result import SearchRecord
    from registry.tracker import Projector


def _summary(record: "SearchRecord") -> dict[str, Any]:
    from search.summary import summary

    return summary(record, tracking().runs(record.study))


def show_summary(record: "SearchRecord", as_json: bool) -> None:
    from search.summary import lines

    facts = _summary(record)
    if as_json:
        return dump(facts)
    for line in lines(facts):
        say(line)


def tracking() -> "Projector":
    """Shows searches in MLflow; a failure is told on stderr and never ends a search."""
    from registry.tracker import Projector, tracking_uri
    from search.storage import runs_dir

    return Projector(tracking_uri(runs_dir()), complain)


def export_winner(
    name: str,
    storage: str | None,
    out: Path,
    force: bool,
    fmt: str = "folder",
    trial: int | None = None,
) -> "SearchRecord":
    """Retrain the winner, or the trial of a number, with three seeds, read the test split once
    each, export and register."""
    from einspace.compile import compile_text
    from registry.card import final_facts
    from registry.export import export as write
    from registry.export import load_weights
    from registry.store import try_register
    from search.final import finalise, weights_path
    from search.study import open_ledger
    from search.tasks import find

    ledger = open_ledger(name, storage)
    final = finalise(ledger, trial=trial)
    record = record_of(name, storage)
    compiled = compile_text(final.text, find(record.task).interface)
    weights = load_weights(weights_path(ledger, final))
    write(compiled, weights, out, facts=final_facts(record), force=force, fmt=fmt)
    projector = tracking()
    if projector.push(record):  # The registry names the run that a model comes from.
        try_register(out, projector.uri, name, projector.tell, trial=final.trial)
    return record


def record_of(study: str, storage: str | None) -> "SearchRecord":
    from search.records import search_record
    from search.study import open_ledger

    return search_record(open_ledger(study, storage))
