"""NSGA-II style search for the front of several objectives (Deb et al. 2002, section III).

The population is the best `population` trials so far, by non-domination rank, then crowding
distance, then age: what repeated (mu + lambda) truncation keeps. A parent wins a binary tournament
by rank, then by crowding. A child is a crossing of two parents with probability `crossover`, else
a mutation of one (half of a subtree, half of one value). It differs from the paper in being
asynchronous: a child is made from the trials there are when a worker asks, not in generations.
With one objective it is the elitist selection of the best. Until the population is full, and after
ten redraws of known architectures, the space itself is drawn from.

A pruned trial stands with the objectives it had when it was stopped.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from einspace.candidates import Candidate, Frame, breed, sample
from einspace.dominance import Point, standing
from einspace.result import TrialRecord
from grammar.errors import SpaceError
from grammar.mutate import Operator
from search.strategies import generator

PATIENCE = 10
MUTATIONS: tuple[Operator, ...] = ("subtree", "parameter")


def leading(points: Sequence[Point], count: int) -> list[int]:
    """Indices of the points of the first fronts, as many fronts as hold `count` points.

    Rank and crowding of these are the same as among all: both look at no later front. Fronts are
    peeled off one by one, so a long table costs what its first fronts do.
    """
    rows = np.asarray(points, dtype=float)
    order = np.lexsort(rows.T[::-1])
    rows = rows[order]
    new = np.concatenate([[True], (rows[1:] != rows[:-1]).any(axis=1)])
    which = np.empty(len(rows), dtype=int)  # of each point, its number among the different ones
    which[order] = np.cumsum(new) - 1
    columns = np.ascontiguousarray(rows[new].T)
    size = np.bincount(which)
    left, kept = np.arange(len(size)), np.zeros(len(size), dtype=bool)
    while len(left) and size[kept].sum() < count:
        rest, others, front = left, columns[1:, left], []
        while len(rest):
            front.append(rest[0])
            # In lexicographic order no later point dominates an earlier one, and the first
            # number of a later one is no smaller: it is dominated unless another number is.
            better = (others[:, 1:] < others[:, :1]).any(axis=0)
            rest, others = rest[1:][better], others[:, 1:][:, better]
        kept[front] = True
        left = left[~kept[left]]
    return [int(i) for i in np.flatnonzero(kept[which])]


Seen: TypeAlias = dict[int, tuple[TrialRecord, Point | None]]


@dataclass(frozen=True, slots=True)
class Member:
    """A trial with its (rank, minus crowding distance), the smaller the better."""

    trial: TrialRecord
    standing: tuple[int, float]


@dataclass(frozen=True, slots=True)
class Pareto:
    """The strategy with its two numbers."""

    population: int = 20
    crossover: float = 0.5
    _known: tuple[Seen, Seen] = field(
        default_factory=lambda: ({}, {}), compare=False, repr=False
    )  # by number, of minimising and of maximising

    def members(self, table: Sequence[TrialRecord], *, maximize: bool) -> list[Member]:
        """The population, best first; seeds given as text have no trace and cannot be changed."""
        rows = self._placed(table, maximize)
        if len(rows) > self.population:
            rows = [rows[i] for i in leading([p for _, p in rows], self.population)]
        ranked = zip((t for t, _ in rows), standing([p for _, p in rows]), strict=True)
        members = [Member(trial, by) for trial, by in ranked]
        members.sort(key=lambda m: (m.standing, m.trial.number))
        return members[: self.population]

    def _placed(
        self, table: Sequence[TrialRecord], maximize: bool
    ) -> list[tuple[TrialRecord, Point]]:
        """The trials that may breed, with their points; a record seen before is not read again."""
        known, found = self._known[maximize], []
        for trial in table:
            seen = known.get(trial.number)
            if seen is None or seen[0] is not trial:
                able = trial.status in ("ok", "pruned") and trial.trace
                point = trial.point(maximize=maximize) if able else None
                known[trial.number] = seen = trial, point
            if seen[1] is not None:
                found.append((trial, seen[1]))
        return found

    def parent(self, alive: Sequence[Member], rng: random.Random) -> Member:
        """The winner of a binary tournament, the first drawn at a tie."""
        return min(rng.sample(alive, min(2, len(alive))), key=lambda m: m.standing)

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
        rng = generator(seed, number, redraw)
        alive = self.members(table, maximize=maximize)
        if len(alive) < self.population or redraw >= PATIENCE:
            return sample(frame, rng), "prior"
        first = self.parent(alive, rng)
        parents = [first.trial]
        operator: Operator = rng.choice(MUTATIONS)
        if rng.random() < self.crossover:
            operator = "crossover"
            parents.append(self.parent([m for m in alive if m is not first], rng).trial)
        try:
            child, used = breed(frame, operator, [t.trace for t in parents], rng)
        except SpaceError:  # The parent's limits were wider than today's, so no child may fit.
            return sample(frame, rng), "prior"
        if used == "crossover":
            return child, f"crossover of #{parents[0].number} and #{parents[1].number}"
        return child, f"mutation of #{parents[0].number} ({used})"
