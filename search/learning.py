"""What a finished study teaches: its space with the weights of its elite, and seeds."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from einspace.candidates import candidate_of
from einspace.result import TrialRecord
from grammar.errors import SpaceError, StudyError
from grammar.learn import Forest, Table, counted, fit, sites, summed, tamed, weighted
from grammar.show import show
from search.carry import carried
from search.known import forest_of
from search.study import Ledger, Setup, space_sha
from search.tasks import find as find_task
from search.worker import search_frame


@dataclass(frozen=True, slots=True)
class Learned:
    """A space with learned weights as text, the trials behind it, those that taught nothing, and
    how much of the learned weights could be kept for derivations to end (1 for all)."""

    text: str
    taught: tuple[int, ...]
    left_out: tuple[int, ...]
    kept: float


def learn(ledger: Ledger, *, top: float = 0.2, strength: float = 1.0) -> Learned:
    """The study's space with the weights that its best finished trials teach.

    A trial with a trace counts its choices; of one given as text all derivations count.
    Raises: StudyError for a share outside (0, 1] and for a study without a finished trial of its
    space; SpaceError for a strength that is not positive.
    """
    if not 0 < top <= 1:
        raise StudyError(f"--top {top:g} is not a share of the trials", hint="0.2 is the best 20%")
    setup = ledger.setup
    frame = search_frame(setup, find_task(setup.task))
    place = sites(frame.space, frame.typing.signatures)
    elite = best_of(ledger, top)
    known: list[Table] = []
    hidden: list[tuple[Forest, float]] = []
    left_out: list[int] = []
    for trial in elite:
        try:
            if trial.trace:
                known.append(counted(place, trial.trace, frame.typing))
            else:
                hidden.append((forest_of(frame, place, trial.text), 1.0))
        except SpaceError:
            left_out.append(trial.number)
    taught = tuple(t.number for t in elite if t.number not in left_out)
    if not taught:
        raise StudyError(
            f"study {setup.name!r} has no finished trial that its space derives",
            hint="let the search finish some trials first",
        )
    found = fit(place, summed(known, len(place.own)), hidden, strength=strength)
    table, kept = tamed(place, found.weights)
    notes = [
        f"{setup.space} with weights learned from study {setup.name}",
        f"task: {setup.task}",
        f"The best {len(taught)} trials by {setup.objective} ({', '.join(map(str, taught))}), "
        f"strength {strength:g}; the space's text had sha {space_sha(setup.space_text)}.",
    ]
    if kept < 1:
        notes.append(f"Only {kept:g} of the way from the own weights: further, no draw would end.")
    body = show(weighted(place, table))
    return Learned("".join(f"# {n}\n" for n in notes) + body + "\n", taught, tuple(left_out), kept)


def best_of(ledger: Ledger, top: float) -> list[TrialRecord]:
    """The best share of a study's finished trials, the best first."""
    done = [t for t in ledger.table() if t.status == "ok" and t.value is not None]
    sign = -1.0 if ledger.setup.direction == "maximize" else 1.0
    done.sort(key=lambda t: (sign * (t.value or 0.0), t.number))
    return done[: math.ceil(top * len(done))]


def warm(setup: Setup, old: Ledger, top: int) -> Setup:
    """The setup with the best `top` architectures of another study among its seeds.

    The old space may be another: what the new one does not derive is carried over to it by its
    trace as far as that goes (`search/carry.py`), and tried as it is otherwise. What does not fit
    the new task is passed over. Raises: StudyError where nothing is left; SpaceError.
    """
    place = search_frame(setup, find_task(setup.task))
    interface = place.typing.interface
    found: list[tuple[str, str]] = []
    for trial in best_of(old, 1.0):
        if len(found) == top:
            break
        text, kept = carried(place, old.setup.space_text, trial)
        try:
            candidate_of(text, interface)
        except SpaceError:
            continue
        if text not in [known for _, known in found]:
            name = f"{old.setup.name}#{trial.number}"
            found.append((f"{name}, {kept}" if kept else name, text))
    if not found:
        raise StudyError(
            f"study {old.setup.name!r} has no finished trial that fits task {setup.task!r}",
            hint="warm up from a study whose task has the same types",
        )
    return replace(setup, seeds=(*setup.seeds, *found))


def save(learned: Learned, out: Path, *, force: bool = False) -> None:
    """Writes the text. Raises: StudyError where that would replace a file, or cannot be done."""
    if out.exists() and not force:
        raise StudyError(f"{out.name} exists", hint="give another -o, or --force to replace it")
    try:
        out.write_text(learned.text, encoding="utf-8")
    except OSError as error:
        raise StudyError(f"{out.name} cannot be written: {error.strerror}") from None
