"""Draws every architecture from the space itself, with the weights the space gives."""

from collections.abc import Sequence

from einspace.candidates import Candidate, Frame, sample
from einspace.result import TrialRecord
from search.strategies import generator


class Prior:
    """Independent draws; looks at no result."""

    def propose(
        self,
        frame: Frame,
        table: Sequence[TrialRecord],
        *,
        maximize: bool,
        seed: int,
        number: int,
        redraw: int,
    ) -> tuple[Candidate, str]:
        return sample(frame, generator(seed, number, redraw)), "prior"
