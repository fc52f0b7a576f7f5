"""A trial of several objectives among the others: it leaves its point at each rung it reaches."""

from collections.abc import Mapping

from search.halving import goes_on, rungs
from search.objectives import values_of
from search.study import Ledger, Setup


def rungs_of(setup: Setup) -> tuple[int, ...]:
    """The rungs of a search with several objectives; none where we do not halve trials."""
    if not setup.objectives or setup.pruner != "halving":
        return ()
    return rungs(setup.min_epochs, setup.epochs)


class Race:
    """One trial's way up the rungs; `size` holds the costs known before training."""

    def __init__(self, ledger: Ledger, number: int, size: Mapping[str, float]) -> None:
        self.ledger, self.number, self.size = ledger, number, size
        self.rungs = rungs_of(ledger.setup)
        self.left: dict[str, tuple[float, ...]] = {}

    def stops(self, epoch: int, value: float, costs: Mapping[str, float]) -> bool:
        """Whether the trial ends here; `costs` are those measured after this epoch."""
        if epoch not in self.rungs:
            return False
        point = values_of(self.ledger.setup.goals, value, {**self.size, **costs})
        assert point is not None, "a cost was not measured"
        self.left[str(epoch)] = point
        self.ledger.note(self.number, rungs=self.left)
        return not goes_on(self.number, self.ledger.rung(epoch))
