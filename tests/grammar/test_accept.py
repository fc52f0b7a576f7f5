"""Draws from weighted proposals, against a distribution that is known."""

import math
import random
from collections import Counter

from scipy.stats import chi2  # type: ignore[import-untyped]  # no stubs

from grammar.accept import Accept, Proposed

WANTED = (0.4, 0.3, 0.1, 0.2)


class Proposals:
    """Four derivations and a dead end, proposed with probabilities `q`."""

    def __init__(self, q: tuple[float, ...]) -> None:
        self.q, self.asked = q, 0

    def __call__(self, rng: random.Random) -> Proposed | None:
        self.asked += 1
        i = rng.choices(range(len(self.q)), self.q)[0]
        if i == len(WANTED):
            return None
        weight = math.log(WANTED[i] / self.q[i])
        return Proposed((i,), math.log(WANTED[i]), weight, 1, 0, 0)

    def accept(self, count: int) -> Accept:
        rng = random.Random(0)
        return Accept(self, [p for _ in range(count) if (p := self(rng))], count)


def test_draws_follow_what_is_wanted_and_not_what_is_proposed() -> None:
    proposals, rng, n = Proposals((0.2, 0.2, 0.2, 0.1, 0.3)), random.Random(1), 20_000
    accept = proposals.accept(2_000)
    assert accept.rest == 0
    drawn = Counter(accept.draw(rng).picks[0] for _ in range(n))
    square = sum((drawn[i] - n * p) ** 2 / (n * p) for i, p in enumerate(WANTED))
    assert square < chi2.ppf(0.9999, 3)


def test_a_weight_too_great_to_wait_for_is_drawn_from_the_pool() -> None:
    proposals, rng, n = Proposals((0.6, 0.3, 0.096, 0.004)), random.Random(1), 4_000
    accept = proposals.accept(20_000)
    assert 0.01 < accept.rest < 0.2
    proposals.asked = 0
    drawn = Counter(accept.draw(rng).picks[0] for _ in range(n))
    assert proposals.asked < 50 * n
    assert sum(abs(drawn[i] / n - p) for i, p in enumerate(WANTED)) / 2 < 0.03


def test_where_nothing_comes_through_any_more_the_pool_is_drawn_from() -> None:
    proposals = Proposals((0.5, 0.2, 0.2, 0.1))
    accept = proposals.accept(1_000)
    proposals.q = (0, 0, 0, 0, 1)
    assert accept.draw(random.Random(0)) in accept.pool
