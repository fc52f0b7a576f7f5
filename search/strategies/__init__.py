"""Strategies propose architectures; each is a pure function of the trial table, seed and number.

A new strategy is a file that defines `STRATEGY`, and a line in `find`.
"""

import difflib
import random
from collections.abc import Sequence
from typing import Protocol

from einspace.candidates import Candidate, Frame
from einspace.result import TrialRecord
from grammar.errors import StudyError

NAMES = ("bayes", "bayes_evolution", "cem", "evolution", "pareto", "prior")


class Strategy(Protocol):
    """Proposes the architecture of one trial; the origin says where it came from.

    `record.value` is the task's metric, which `maximize` is about. Of several objectives,
    `record.values` holds all in the order asked, the others to be made small, and
    `record.point(maximize=...)` gives all of them as numbers to be made small.
    """

    def propose(
        self,
        frame: Frame,
        table: Sequence[TrialRecord],
        *,
        maximize: bool,
        seed: int,
        number: int,
        redraw: int,
    ) -> tuple[Candidate, str]: ...


def generator(seed: int, number: int, redraw: int) -> random.Random:
    """The only randomness of a proposal."""
    return random.Random(f"{seed}/{number}/{redraw}")


def find(name: str) -> Strategy:
    """The strategy of this name. Raises: StudyError with the names there are."""
    from search.strategies.bayes import Bayes, BayesEvolution
    from search.strategies.cem import CrossEntropy
    from search.strategies.evolution import Evolution
    from search.strategies.pareto import Pareto
    from search.strategies.prior import Prior

    if name == "bayes":
        return Bayes()
    if name == "bayes_evolution":
        return BayesEvolution()
    if name == "cem":
        return CrossEntropy()
    if name == "evolution":
        return Evolution()
    if name == "pareto":
        return Pareto()
    if name == "prior":
        return Prior()
    close = difflib.get_close_matches(name, NAMES, n=1)
    mean = f"did you mean {close[0]!r}? " if close else ""
    raise StudyError(f"there is no strategy {name!r}", hint=f"{mean}there are {', '.join(NAMES)}")
