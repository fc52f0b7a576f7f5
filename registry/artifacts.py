"""The files of a trial: text, curves, drawing and source; the last two are made from the text."""

from collections.abc import Mapping
from itertools import zip_longest

from einspace.compile import compile_text
from einspace.interface import Interface
from einspace.render import svg_of
from einspace.result import TrialRecord
from grammar.errors import SpaceError, UserError


def trial_files(trial: TrialRecord, interface: Interface | None) -> Mapping[str, str]:
    """Artifact path -> content; a text that no longer compiles says so."""
    if not trial.text:
        return {}
    files = {"architecture.arch": trial.text + "\n"}
    if trial.curves:
        files["curves.csv"] = _curves(trial)
    if interface is None:
        return files
    try:
        compiled = compile_text(trial.text, interface)
    except SpaceError as error:
        return {**files, "invalid.txt": error.render() + "\n"}
    files["model.py"] = compiled.source
    try:
        files["graph.svg"] = svg_of(compiled.graph)
    except UserError as error:  # a machine without Graphviz still tracks
        files["no-drawing.txt"] = error.render() + "\n"
    return files


def _curves(trial: TrialRecord) -> str:
    """One row an epoch, one column a curve; a curve that ended early leaves its cells empty."""
    rows = zip_longest(*trial.curves.values(), fillvalue="")
    lines = [f"epoch,{','.join(trial.curves)}"]
    lines += [f"{i},{','.join(map(str, row))}" for i, row in enumerate(rows, start=1)]
    return "\n".join(lines) + "\n"
