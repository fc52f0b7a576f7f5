"""Match histogram: one match, the exact bin, sums, and pairs that are not real."""

import math

import torch

from ops.pair.histogram import MatchHistogram
from ops.spec import image
from tests.ops.case import Case, close

OP_NAME = "histogram"
COUNTS = {"gradients": "a count has no gradient"}
CASES = [
    Case(image(1, 5, 7), waive=COUNTS),
    Case(image(2, 5, 7), {"bins": 6, "mode": "norm"}, waive=COUNTS),
]


def test_one_match_in_one_bin_is_log_two() -> None:
    y = MatchHistogram(30, "log")(torch.full((1, 1, 1, 1), 0.33))
    close(y.sum(), torch.tensor(math.log(2)))
    assert int(y.ne(0).sum()) == 1


def test_ends_and_the_exact_bin() -> None:
    x = torch.tensor([-1.0, -0.51, -0.49, 0.0, 0.99, 1.0]).view(1, 1, 1, 6)
    assert MatchHistogram(5, "count")(x)[0, 0].tolist() == [2.0, 1.0, 1.0, 1.0, 1.0]


def test_shares_sum_to_one_and_counts_to_the_number_of_real_pairs() -> None:
    x, real = torch.rand(2, 1, 5, 7), torch.zeros(2, 1, 5, 7)
    real[..., :4] = 1.0
    close(MatchHistogram(9, "norm")(x).sum(-1), torch.ones(2, 5))
    y = MatchHistogram(9, "count")(torch.cat([x, real], 1))
    assert torch.equal(y, MatchHistogram(9, "count")(x[..., :4]))
