"""What a study found, carried over to a space whose text was edited.

An architecture that the edited space derives stays as it is. Another one is derived anew from its
trace: what is still there is kept, the rest is drawn (`grammar/migrate.py`), so that a search may
breed from it.
"""

import random

from einspace.candidates import Frame
from einspace.membership import trace_of
from einspace.result import TrialRecord
from grammar.errors import SpaceError
from grammar.migrate import migrate
from grammar.normal import text_of
from grammar.parse import parse


def carried(place: Frame, old_text: str, trial: TrialRecord) -> tuple[str, str]:
    """The trial's architecture for the space of `place`, and what was kept of it, in words: nothing
    to say where it is as it was.

    It stays as it was, too, where it has no trace of the space of `old_text`, where nothing of that
    is left, and where what is left cannot be completed.
    """
    if not trial.trace or place.text == old_text:
        return trial.text, ""
    try:
        trace_of(place, trial.text)
    except SpaceError:
        pass
    else:
        return trial.text, ""
    try:
        old, rng = parse(old_text, "<space of the study>"), random.Random(trial.number)
        found = migrate(trial.trace, old, place.space, place.typing, place.limits, rng)
    except SpaceError:
        return trial.text, ""
    if not found.kept:
        return trial.text, ""
    text, _ = text_of(found.derivation.closed, place.typing.signatures)
    total = len(found.kept) + len(found.drawn)
    return text, f"{len(found.kept)} of {total} choices kept"
