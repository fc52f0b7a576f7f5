"""Bayesian optimisation over features of derivations (`search/features.py`).

`bayes`: after `start` trials, a surrogate is fitted on the table; of a pool of candidates, half of
them drawn from the space and half children of the best, the one with the highest expected
improvement (Jones et al. 1998) is proposed. `bayes_evolution`: regularised evolution that breeds
`children` instead of one and takes the child with the highest expected improvement.

One name, two surrogates: the forest and the Gaussian process are fitted each time, and the one
that predicts left-out trials better speaks (`Surrogate.evidence`). Which of them is better depends
on space, noise and number of trials; nobody can know it before the search, and asking costs less
than one training step. `bayes(surrogate=...)` fixes it for experiments.

Improvement is over the best *predicted* value of a known trial, not over the best measured one:
a lucky measurement would otherwise stop the search from looking near it.

With a zero-cost proxy (`score`) the trial's own, in its metrics, is one more feature; where it is
missing there, the lowest of the table stands for it. A candidate is first taken to have the mean
proxy; the `SCORED` with the highest improvement are scored, and the best of these is proposed. So
a proposal costs as many proxies as that of the filter.

Rows: the `best` and the `recent` trials, so the fit costs the same at trial 5,000 as at 500; the
last `n % (n // LATE)` of n trials wait for the next fit, so a fit serves a hundredth of the trials.
What is running is known, so it is not proposed again, but has no say. What is remembered within
the process (the fit by its rows, features) spares work and decides nothing: a proposal depends on
(table, seed, number, redraw) alone.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from einspace.candidates import Candidate, Frame, sample
from einspace.result import TrialRecord
from search.features import PROXY, Columns, Features, Featurizer, proxy_feature
from search.strategies import generator
from search.strategies.evolution import Evolution
from search.surrogate import (
    FAILED,
    Forest,
    Gp,
    Surrogate,
    Vector,
    improvement,
    normal,
    scores,
)

Score: TypeAlias = Callable[[str, str], float]
Kind: TypeAlias = Literal["forest", "gp", "evidence"]
Proposal: TypeAlias = tuple[Candidate, str]
LATE = 100
SCORED = 8
MAKERS: Mapping[str, Callable[..., Surrogate]] = {"forest": Forest, "gp": Gp}


@dataclass(frozen=True, slots=True)
class Fitted:
    """A surrogate with what improvement is measured from; features of the lowest and of the mean
    proxy, None without one."""

    kind: str
    surrogate: Surrogate
    best: float
    proxies: tuple[float, float] | None = None


class Model:
    """Surrogates of tables; remembers features by architecture and the last fit."""

    def __init__(
        self,
        kind: Kind = "evidence",
        best: int = 100,
        recent: int = 150,
        score: Score | None = None,
    ) -> None:
        self.kind, self.best, self.recent, self.score = kind, best, recent, score
        self._featurizer: Featurizer | None = None
        self._key: object = None
        self._fitted: Fitted | None = None

    def features(self, frame: Frame) -> Featurizer:
        """The featurizer of this frame."""
        if self._featurizer is None or self._featurizer.frame is not frame:
            self._featurizer, self._key = Featurizer(frame), None
        return self._featurizer

    def rows(self, table: Sequence[TrialRecord], maximize: bool) -> list[TrialRecord]:
        """The best and the most recent trials that say something, by number."""
        step = max(1, len(table) // LATE)
        table = table[: len(table) - len(table) % step]
        done = [t for t in table if measured(t) or (t.status in FAILED and t.text)]
        sign = 1.0 if maximize else -1.0
        ranked = sorted(filter(measured, done), key=lambda t: (-sign * (t.value or 0.0), t.number))
        kept = {t.number: t for t in (*ranked[: self.best], *done[-self.recent :])}
        return [kept[number] for number in sorted(kept)]

    def fit(
        self, frame: Frame, table: Sequence[TrialRecord], maximize: bool, seed: int
    ) -> Fitted | None:
        """The surrogate of this table; None if its trials do not differ."""
        features = self.features(frame)
        rows = self.rows(table, maximize)
        key = (maximize, seed, tuple((t.number, t.status, t.value) for t in rows))
        if key != self._key:
            self._key, self._fitted = key, self._fit(features, rows, maximize, seed)
        return self._fitted

    def _fit(
        self, features: Featurizer, rows: Sequence[TrialRecord], maximize: bool, seed: int
    ) -> Fitted | None:
        targets = normal(scores(rows, maximize))
        if float(np.ptp(targets)) < 1e-9:
            return None
        x = [features(t.text, t.hash, t.trace) for t in rows]
        told = [proxy_feature(t.metrics[PROXY]) for t in rows if PROXY in t.metrics]
        proxies = (min(told), sum(told) / len(told)) if self.score is not None and told else None
        if proxies is not None:
            known = iter(told)
            x = [
                {**f, PROXY: next(known) if PROXY in t.metrics else proxies[0]}
                for f, t in zip(x, rows, strict=True)
            ]
        columns = Columns(x)
        matrix = columns.matrix(x)
        kinds = ("gp", "forest") if self.kind == "evidence" else (self.kind,)
        found = {kind: MAKERS[kind](columns, matrix, targets, seed) for kind in kinds}
        kind = max(found, key=lambda k: found[k].evidence)
        mean, _ = found[kind].predict(x)
        return Fitted(kind, found[kind], float(mean.max()), proxies)

    def choose(
        self, frame: Frame, fitted: Fitted, pool: Sequence[Proposal], known: set[str]
    ) -> Proposal | None:
        """The unknown candidate with the highest expected improvement, the first at a tie."""
        fresh = {c.hash: (c, origin) for c, origin in reversed(pool) if c.hash not in known}
        options = list(reversed(fresh.values()))
        if not options:
            return None
        features = self.features(frame)
        rows = [features(c.text, c.hash, c.trace, c.closed) for c, _ in options]
        if self.score is not None and fitted.proxies is not None:
            low, usual = fitted.proxies
            guess = _improvement(fitted, [{**row, PROXY: usual} for row in rows])
            first = [int(i) for i in np.argsort(-guess, kind="stable")[:SCORED]]
            options, rows = [options[i] for i in first], [rows[i] for i in first]
            scored = [self.score(c.text, c.hash) for c, _ in options]
            rows = [
                {**row, PROXY: proxy_feature(s) if math.isfinite(s) else low}
                for row, s in zip(rows, scored, strict=True)
            ]
        candidate, origin = options[int(np.argmax(_improvement(fitted, rows)))]
        return candidate, f"{fitted.kind}: {origin}"


@dataclass(frozen=True, slots=True)
class Bayes:
    """Expected improvement over a pool; see the module."""

    surrogate: Kind = "evidence"
    start: int = 12
    drawn: int = 16
    bred: int = 24
    elite: int = 10
    score: Score | None = None
    model: Model = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", Model(self.surrogate, score=self.score))

    def propose(
        self,
        frame: Frame,
        table: Sequence[TrialRecord],
        *,
        maximize: bool,
        seed: int,
        number: int,
        redraw: int,
    ) -> Proposal:
        rng = generator(seed, number, redraw)
        done = [t for t in table if measured(t)]
        fitted = None
        if len(done) >= self.start:
            fitted = self.model.fit(frame, table, maximize, seed)
        if fitted is None:
            return sample(frame, rng), "prior"
        sign = 1.0 if maximize else -1.0
        traced = [t for t in done if t.trace]
        elite = sorted(traced, key=lambda t: (-sign * (t.value or 0.0), t.number))[: self.elite]
        pool: list[Proposal] = [(sample(frame, rng), "prior") for _ in range(self.drawn)]
        if len(elite) > 1:
            breeder = Evolution(population=len(elite), tournament=2)
            pool += _children(breeder, frame, elite, maximize, rng, number, self.bred)
        chosen = self.model.choose(frame, fitted, pool, {t.hash for t in table})
        return chosen or pool[0]


@dataclass(frozen=True, slots=True)
class BayesEvolution:
    """Evolution whose children are sieved by the surrogate; see the module."""

    surrogate: Kind = "evidence"
    start: int = 12
    children: int = 16
    evolution: Evolution = field(default_factory=Evolution)
    score: Score | None = None
    model: Model = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", Model(self.surrogate, score=self.score))

    def propose(
        self,
        frame: Frame,
        table: Sequence[TrialRecord],
        *,
        maximize: bool,
        seed: int,
        number: int,
        redraw: int,
    ) -> Proposal:
        fitted = None
        if sum(map(measured, table)) >= self.start:
            fitted = self.model.fit(frame, table, maximize, seed)
        if fitted is None:
            return self.evolution.propose(
                frame, table, maximize=maximize, seed=seed, number=number, redraw=redraw
            )
        rng = generator(seed, number, redraw)
        pool = _children(self.evolution, frame, table, maximize, rng, number, self.children, redraw)
        chosen = self.model.choose(frame, fitted, pool, {t.hash for t in table})
        return chosen or pool[0]


def measured(trial: TrialRecord) -> bool:
    """Whether the trial has a value to learn from."""
    value = trial.value
    return trial.status in ("ok", "pruned") and value is not None and math.isfinite(value)


def _improvement(fitted: Fitted, rows: Sequence[Features]) -> Vector:
    mean, deviation = fitted.surrogate.predict(rows)
    return improvement(mean, deviation, fitted.best)


def _children(
    breeder: Evolution,
    frame: Frame,
    table: Sequence[TrialRecord],
    maximize: bool,
    rng: random.Random,
    number: int,
    count: int,
    redraw: int = 0,
) -> list[Proposal]:
    """Children that evolution would propose, each with a seed of its own."""
    seeds = [rng.getrandbits(48) for _ in range(count)]
    return [
        breeder.propose(frame, table, maximize=maximize, seed=s, number=number, redraw=redraw)
        for s in seeds
    ]
