"""Estimates, where a space is too large for exact sums: behind the same calls, with their error.

A `Proposer` derives with probability q what has probability p in the grammar, and never excludes
what is valid. Then the mean of w = p / q over independent proposals (0 where one came to nothing)
is an unbiased estimate of the mass of what is valid and within budget, with standard error
s / sqrt(n). Numbers of derivations are means of 1 / q; entropy is the weighted mean of -log p.

Source: importance sampling (Kahn & Marshall 1953); sequential (Liu & Chen 1998).
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from grammar.accept import Accept, Proposed
from grammar.ast import Space, deep
from grammar.derive import GaveUp, Walk, derive
from grammar.errors import SpaceError
from grammar.exact import Drawn, Exact, Ranges, replay
from grammar.walk import Algebra, Chooser, Derivation, Infeasible, Limits, Replay, Sample

PROPOSALS = 2_000
FEW = 100  # where fewer than one proposal in so many comes through, they are no way to draw


class Proposer(Protocol):
    """Derives at random."""

    def propose(self, rng: random.Random) -> Proposed | None:
        """One proposal; None where it came to nothing."""

    def draw(self, rng: random.Random, accept: Accept | None) -> Proposed:
        """A draw from what is valid and within budget; `accept` takes proposals by their weight,
        None where hardly any comes through. Raises: SpaceError where none is found."""


class Relaxed:
    """Exact draws from the space without its budget of params, flops and memory; those within
    the budget are exact draws from what is wanted."""

    def __init__(self, exact: Exact, algebra: Algebra, limits: Limits) -> None:
        self.exact, self.algebra, self.limits = exact, algebra, limits

    def propose(self, rng: random.Random) -> Proposed | None:
        drawn, nodes, params, flops = self.exact.priced(rng)
        limits, mass = self.limits, self.exact.log_mass()
        if limits.params is not None and params > limits.params:
            return None
        if limits.flops is not None and flops > limits.flops:
            return None
        if limits.memory is not None:
            found = self.exact.replay(drawn, self.algebra)
            if found.memory > limits.memory:
                return None
        return Proposed(drawn.picks, drawn.log_prob + mass, mass, nodes, params, flops)

    def draw(self, rng: random.Random, accept: Accept | None) -> Proposed:
        for _ in range(100_000):
            found = self.propose(rng)
            if found is not None:
                return found
        raise SpaceError("hardly anything fits this budget", hint="loosen it")


@dataclass(slots=True)
class Recorder:
    """A chooser that keeps what another one picks."""

    chooser: Chooser
    picks: list[int] = field(default_factory=list)

    def pick(self, address: str, options: Sequence[int], weights: Sequence[float]) -> int:
        self.picks.append(self.chooser.pick(address, options, weights))
        return self.picks[-1]


class Hasty(Walk):
    """A walk that gives up at the first refusal."""

    def note(self, error: Infeasible) -> None:
        raise GaveUp


class Walked:
    """The plain walk, where recursive parts are shared by copies: a proposal is a draw of the
    grammar that is valid at the first go, or nothing, and all weigh the same. Where hardly any is,
    `draw` goes back and chooses again, which favours what is easily completed."""

    def __init__(self, space: Space, algebra: Algebra, limits: Limits) -> None:
        self.space, self.algebra, self.limits = space, algebra, limits

    def propose(self, rng: random.Random) -> Proposed | None:
        chooser = Recorder(Sample(rng))
        walk = Hasty(self.space, chooser, self.algebra, self.limits)
        try:
            with deep():
                found = next(walk.run())
        except GaveUp:
            return None
        return self._proposed(found, chooser.picks)

    def draw(self, rng: random.Random, accept: Accept | None) -> Proposed:
        if accept is not None:
            return accept.draw(rng)
        first, _ = derive(self.space, Sample(rng), self.algebra, self.limits)
        chooser = Recorder(Replay(first.trace, Sample(rng)))
        found, _ = derive(self.space, chooser, self.algebra, self.limits)
        return self._proposed(found, chooser.picks)

    @staticmethod
    def _proposed(found: Derivation, picks: Sequence[int]) -> Proposed:
        costs = found.nodes, found.params, found.flops
        return Proposed(tuple(picks), found.log_prob, 0.0, *costs)


class Estimate:
    """What `Exact` tells of a space, estimated from `count` proposals with a fixed seed."""

    kind: Literal["estimate"] = "estimate"

    def __init__(
        self, space: Space, limits: Limits, proposer: Proposer, *, count: int = PROPOSALS
    ) -> None:
        self.space, self.limits, self.proposer, self.count = space, limits, proposer, count
        self._found: list[Proposed] | None = None
        self._accept: Accept | None = None

    def _proposals(self) -> list[Proposed]:
        """Made when a figure or a draw is first asked for."""
        if self._found is None:
            rng = random.Random(0)
            made = (self.proposer.propose(rng) for _ in range(self.count))
            self._found = [p for p in made if p is not None]
        return self._found

    def _some(self) -> list[Proposed]:
        """Raises: SpaceError where no proposal fits."""
        if not self._proposals():
            raise SpaceError(
                f"none of {self.count:,} proposals fits this task and budget",
                hint="loosen the budget, or the rules of the space",
            )
        return self._proposals()

    def _weights(self) -> tuple[float, list[float]]:
        """The largest log-weight, and the weights relative to it."""
        logs = [p.log_weight for p in self._some()]
        top = max(logs)
        return top, [math.exp(x - top) for x in logs]

    def log_mass(self) -> float:
        """The logarithm of the unbiased estimate of the mass; of 1 / count where it is 0."""
        if not self._proposals():
            return -math.log(self.count)
        top, weights = self._weights()
        return top + math.log(math.fsum(weights) / self.count)

    def error(self) -> float:
        """The standard error of the mass, relative to the mass (that of `log_mass`, nearly)."""
        if not self._proposals():
            return math.inf
        _, weights = self._weights()
        mean = math.fsum(weights) / self.count
        square = math.fsum(w * w for w in weights) / self.count - mean**2
        return math.sqrt(max(square, 0.0) / (self.count - 1)) / mean

    def counts(self) -> Mapping[int, int]:
        """The estimated number of derivations of each size seen, in whole numbers."""
        found: dict[int, float] = {}
        for p in self._proposals():
            ways = math.exp(p.log_weight - p.log_prob) / self.count
            found[p.nodes] = found.get(p.nodes, 0.0) + ways
        return {n: max(1, round(found[n])) for n in sorted(found)}

    def entropy(self) -> float:
        """The entropy (nats) of the conditioned distribution over derivations."""
        _, weights = self._weights()
        pairs = zip(weights, self._proposals(), strict=True)
        return self.log_mass() - math.fsum(w * p.log_prob for w, p in pairs) / math.fsum(weights)

    def ranges(self) -> Ranges:
        """The least and most params and FLOPs seen: the true range reaches at least so far."""
        params = [p.params for p in self._some()]
        flops = [p.flops for p in self._some()]
        return Ranges((min(params), max(params)), (min(flops), max(flops)), "estimate")

    def sample(self, rng: random.Random) -> Drawn:
        """A valid draw; its log-probability less the estimated log-mass."""
        pool = self._proposals()
        if self._accept is None and len(pool) * FEW >= self.count:
            self._accept = Accept(self.proposer.propose, pool, self.count)
        return self.proposer.draw(rng, self._accept).drawn(self.log_mass())

    def uniform(self, rng: random.Random, nodes: int | None = None) -> Drawn:
        """Raises: SpaceError, because only exact sums can tell what is equally likely."""
        raise SpaceError(
            "this space is too large for draws that are equally likely",
            hint="give a smaller budget of nodes",
        )

    def replay(self, drawn: Drawn, algebra: Algebra, limits: Limits | None = None) -> Derivation:
        """The derivation of a draw under the algebra that builds it; it never meets a refusal."""
        return replay(self.space, drawn.picks, algebra, limits or self.limits)
