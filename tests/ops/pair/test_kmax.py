"""k-max: all of them is a sort, padding never wins, too many are refused."""

import pytest
import torch

from ops.pair.kmax import OP, KMax
from ops.spec import Mismatch, image
from tests.ops.case import Case, close

OP_NAME = "kmax"
CASES = [
    Case(image(1, 5, 7)),
    Case(image(2, 5, 7), {"k": 4}),
]


def test_all_of_them_are_a_sort() -> None:
    x = torch.randn(2, 1, 5, 7)
    assert torch.equal(KMax(7)(x), x[:, 0].sort(-1, descending=True).values)


def test_pairs_that_are_not_real_never_win() -> None:
    x, real = torch.randn(2, 1, 5, 7) - 5, torch.zeros(2, 1, 5, 7)
    real[..., :2] = 1.0
    y = KMax(3)(torch.cat([x, real], 1))
    close(y[..., :2], KMax(2)(x[..., :2]))
    assert not y[..., 2].any()


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(Mismatch, match="k=8 of 7") as found:
        OP.shape(image(1, 5, 7), k=8)
    assert found.value.hint == "k may be at most 7 here"
