"""Surrogates: from features of architectures to a mean and a deviation of what they are worth.

Targets. `scores` gives each trial the share of the others that it beats, two trials compared at
the last epoch that both reached (ties are half a win). Without pruning this is the mid-rank; with
it, a trial stopped early is measured against what the others were worth at that age, never against
their final values. Trials that failed (nan, oom, timeout) lose to all that have a value and tie
among themselves. `normal` makes normal scores of them, so no surrogate sees the metric's scale.

Forest: bagged regression trees; mean and deviation over the trees (Hutter et al. 2011, SMAC).
Gp: Matern 5/2 on L2-normalised log counts with standardised log costs beside them; length scale and
noise are those of a small grid with the highest marginal likelihood (Ru et al. 2021,
arXiv:2006.07556, who take the Weisfeiler-Lehman counts alone).

Each says how well it predicts trials that it did not see (`evidence`, a correlation with normal
scores): the forest by the trees that a row was not in, the process by leaving one out in closed
form (Rasmussen and Williams 2006, eq. 5.12). Both cost nothing beyond the fit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from einspace.result import TrialRecord
from search.features import COSTS, PROXY, Columns, Features, Matrix

Vector = NDArray[np.float64]
FAILED = ("nan", "oom", "timeout")
TREES = 48
LENGTHS = (0.35, 0.7, 1.4)
NOISES = (0.03, 0.1, 0.3, 1.0)
COST_WEIGHT = 0.25


class Surrogate(Protocol):
    """A fitted surrogate; `evidence` is its correlation with trials left out, -1 to 1."""

    evidence: float

    def predict(self, rows: Sequence[Features]) -> tuple[Vector, Vector]:
        """Mean and deviation of the normal score."""


def curve(trial: TrialRecord) -> tuple[float, ...]:
    """What the objective was after each epoch: the validation curve that ends with the value."""
    for name in sorted(trial.curves):
        points = trial.curves[name]
        if name.startswith("val_") and points and points[-1] == trial.value:
            return points
    return ()


def scores(trials: Sequence[TrialRecord], maximize: bool) -> Vector:
    """Share of wins of each trial among these, in (0, 1)."""
    n, sign = len(trials), 1.0 if maximize else -1.0
    curves = [curve(t) for t in trials]
    top = max([len(c) for c in curves] + [1])
    worth = np.full((n, top), -math.inf)
    reached = np.full(n, top)
    for i, (trial, points) in enumerate(zip(trials, curves, strict=True)):
        if trial.status in FAILED or trial.value is None:
            continue  # Worth less than anything, at every age.
        if points:
            reached[i] = len(points)
            worth[i, : len(points)] = sign * np.asarray(points)
        else:
            worth[i, :] = sign * trial.value
    age = np.minimum.outer(reached, reached) - 1
    mine = np.take_along_axis(worth, age, axis=1)
    beaten = (mine > mine.T) + 0.5 * (mine == mine.T)
    found: Vector = (beaten.sum(axis=1)) / n
    return found


def normal(shares: Vector) -> Vector:
    """Normal scores of shares of wins."""
    inverse, edge = NormalDist().inv_cdf, 0.25 / len(shares)
    return np.asarray([inverse(min(max(s, edge), 1 - edge)) for s in shares])


def improvement(mean: Vector, deviation: Vector, best: float) -> Vector:
    """Expected improvement over `best`: d (z Phi(z) + phi(z)), z = (mean - best) / d."""
    d = np.maximum(deviation, 1e-9)
    z = (mean - best) / d
    phi = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    below = np.asarray([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in z])
    found: Vector = d * (z * below + phi)
    return found


class Forest:
    """Bagged trees from scikit-learn, on the matrix `x` [rows, columns.names]."""

    def __init__(self, columns: Columns, x: Matrix, targets: Vector, seed: int) -> None:
        from sklearn.ensemble import RandomForestRegressor

        self._columns = columns
        # Of columns that are equal in all rows one is enough; the first by name stays.
        first: dict[bytes, int] = {}
        for j, column in enumerate(np.ascontiguousarray(x.T)):
            first.setdefault(column.tobytes(), j)
        self._kept = np.asarray(list(first.values()))
        self._model = RandomForestRegressor(
            TREES, max_features=1 / 3, random_state=seed, n_jobs=1, min_samples_leaf=1
        )
        small = x[:, self._kept].astype(np.float32)
        self._model.fit(small, targets)
        self.evidence = _correlation(self._unseen(small), targets)

    def _unseen(self, x: NDArray[np.float32]) -> Vector:
        """The mean over the trees that a row was not in; the total mean where it was in all."""
        total, count = np.zeros(len(x)), np.zeros(len(x))
        for tree, drawn in zip(
            self._model.estimators_, self._model.estimators_samples_, strict=True
        ):
            out = np.ones(len(x), dtype=bool)
            out[drawn] = False
            total[out] += tree.tree_.predict(x[out])[:, 0] if out.any() else 0.0
            count[out] += 1
        found: Vector = total / np.maximum(count, 1)
        return found

    def predict(self, rows: Sequence[Features]) -> tuple[Vector, Vector]:
        x = self._columns.matrix(rows)[:, self._kept].astype(np.float32)
        each = np.stack([tree.tree_.predict(x)[:, 0] for tree in self._model.estimators_])
        return each.mean(axis=0), each.std(axis=0)


@dataclass(frozen=True, slots=True)
class _Fit:
    """A Gaussian process at one point of the grid; `axes` and `inverse` are eigenvectors of the
    kernel and the inverse eigenvalues, noise added."""

    length: float
    likelihood: float
    weights: Vector
    axes: Matrix
    inverse: Vector
    scale: float


class Gp:
    """A Gaussian process over normalised counts and costs, rows of `raw` [rows, columns.names]."""

    def __init__(self, columns: Columns, raw: Matrix, targets: Vector, seed: int) -> None:
        self._columns = columns
        self._cost = np.asarray([name in (*COSTS, PROXY) for name in columns.names], dtype=bool)
        costs = raw[:, self._cost]
        self._centre, self._spread = costs.mean(axis=0), np.maximum(costs.std(axis=0), 1e-9)
        self._x = self._embed(raw)
        self._shift = float(targets.mean())
        y = targets - self._shift
        distance = _distances(self._x, self._x)
        fits = [fit for length in LENGTHS for fit in _fits(distance, y, length)]
        best = self._best = max(fits, key=lambda f: f.likelihood)
        left_out = y - best.weights / (best.axes**2 @ best.inverse)
        self.evidence = _correlation(left_out, y)

    def _embed(self, raw: Matrix) -> Matrix:
        counts = np.log1p(raw[:, ~self._cost])
        norm = np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)
        costs = (raw[:, self._cost] - self._centre) / self._spread
        found: Matrix = np.hstack([counts / norm, COST_WEIGHT * costs])
        return found

    def predict(self, rows: Sequence[Features]) -> tuple[Vector, Vector]:
        x = self._embed(self._columns.matrix(rows))
        best = self._best
        near = _matern(_distances(x, self._x), best.length)
        mean = self._shift + near @ best.weights
        spread = 1.0 - (near @ best.axes) ** 2 @ best.inverse
        return mean, np.sqrt(np.maximum(spread, 1e-12) * best.scale)


def _fits(distance: Matrix, y: Vector, length: float) -> list[_Fit]:
    """One for each noise: they share the eigenvectors of the kernel without it.

    The signal's variance has its maximum-likelihood value, y K^-1 y / n.
    """
    values, axes = np.linalg.eigh(_matern(distance, length))
    n, turned, found = len(y), axes.T @ y, []
    for noise in NOISES:
        spectrum = np.maximum(values, 0.0) + noise
        inverse: Vector = 1.0 / spectrum
        weights: Vector = axes @ (turned * inverse)
        scale = max(float(y @ weights) / n, 1e-12)
        likelihood = -0.5 * n * math.log(scale) - 0.5 * float(np.log(spectrum).sum())
        found.append(_Fit(length, likelihood, weights, axes, inverse, scale))
    return found


def _distances(a: Matrix, b: Matrix) -> Matrix:
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T
    found: Matrix = np.sqrt(np.maximum(square, 0.0))
    return found


def _matern(distance: Matrix, length: float) -> Matrix:
    r = math.sqrt(5) * distance / length
    found: Matrix = (1 + r + r**2 / 3) * np.exp(-r)
    return found


def _correlation(a: Vector, b: Vector) -> float:
    """Pearson's; -1 where one of them is constant, which is no evidence at all."""
    if float(np.std(a)) < 1e-12 or float(np.std(b)) < 1e-12:
        return -1.0
    return float(np.corrcoef(a, b)[0, 1])
