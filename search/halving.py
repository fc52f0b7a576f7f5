"""Early stopping with several objectives: asynchronous successive halving on non-domination rank.

Rungs lie at `min_epochs * 3^k` epochs. A trial that reaches one leaves its objectives there, and
goes on only if it is among the best third of the trials that have reached it so far (of fewer than
three: the best), in the order of non-domination rank, then crowding distance, then the objectives
in the order asked, then age: of two ends of the front the one with the better metric. The decision
is a pure function of what lies at the rung, needs no waiting, and is never revised.

This is Li et al. 2020, "A system for massively parallel hyperparameter tuning" (ASHA,
arXiv:1810.05934), algorithm 2, with the scalar loss replaced by NSGA-II's order, and without its
promotion of paused trials: a trial is stopped or goes on at once. Optuna's pruners cannot serve,
because a trial of several objectives may not `report`.
"""

from collections.abc import Mapping

from einspace.dominance import Point, order

REDUCTION = 3


def rungs(min_epochs: int, epochs: int) -> tuple[int, ...]:
    """The epochs after which trials are compared; all below `epochs`, where there is no choice."""
    found = []
    rung = max(1, min_epochs)
    while rung < epochs:
        found.append(rung)
        rung *= REDUCTION
    return tuple(found)


def goes_on(number: int, rung: Mapping[int, Point]) -> bool:
    """Whether the trial of this number is among the best third at a rung that holds its point.

    `rung` holds points to be made small, by trial number.
    """
    numbers = sorted(rung)
    kept = max(1, len(numbers) // REDUCTION)
    best = order([rung[n] for n in numbers])[:kept]
    return number in {numbers[i] for i in best}
