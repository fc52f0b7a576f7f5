"""Pooling to one vector: what padding may not change, and what order may not."""

import pytest
import torch

from ops.pool.pool import OP, Pool
from ops.spec import Mismatch, image, seq, vec
from tests.ops.case import Case, close

OP_NAME = "pool"
KINDS = ("mean", "max", "last", "first", "sum", "weighted", "sqrt")
CASES = [
    *(Case(seq(9, 6, may_pad=True), {"kind": kind}) for kind in KINDS),
    Case(seq(9, 6, may_pad=True), {"kind": "cls"}),
    *(Case(image(3, 4, 5), {"kind": kind}) for kind in ("mean", "max", "sum", "sqrt")),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left", [True, False])
def test_padding_on_either_side_changes_nothing(kind: str, left: bool) -> None:
    x = torch.randn(1, 9, 6, dtype=torch.float64)
    place = torch.arange(9)[None]
    mask = place >= 4 if left else place < 5
    part = x[:, 4:] if left else x[:, :5]
    close(Pool(kind)(x, mask), Pool(kind)(part))


@pytest.mark.parametrize("kind", ["mean", "max", "sum"])
def test_order_changes_nothing(kind: str) -> None:
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    close(Pool(kind)(x.flip(1)), Pool(kind)(x))


def test_last_and_first_are_tokens() -> None:
    x = torch.randn(2, 9, 6)
    assert torch.equal(Pool("last")(x), x[:, -1])
    assert torch.equal(Pool("first")(x), x[:, 0])


@pytest.mark.parametrize("kind", ["mean", "max", "sum", "sqrt", "weighted"])
def test_padding_alone_gives_zero(kind: str) -> None:
    assert not Pool(kind)(torch.randn(1, 9, 6), torch.zeros(1, 9, dtype=torch.bool)).any()


def test_of_an_image_it_is_over_all_places() -> None:
    x = torch.randn(2, 3, 4, 5)
    close(Pool("mean")(x), x.mean((2, 3)))
    assert OP.shape(image(3, 4, 5), kind="mean") == vec(3)


def test_an_image_has_no_last_token() -> None:
    with pytest.raises(Mismatch, match="kind=last") as found:
        OP.shape(image(3, 4, 5), kind="last")
    assert found.value.hint == "kind may be mean, max, sum or sqrt here"


def test_cls_is_place_zero_and_weights_grow_with_the_place() -> None:
    x = torch.randn(2, 3, 6)
    assert torch.equal(Pool("cls")(x, torch.tensor([[False, True, True]] * 2)), x[:, 0])
    close(Pool("weighted")(x), (x[:, 0] + 2 * x[:, 1] + 3 * x[:, 2]) / 6)


def test_of_one_token_mean_sqrt_and_max_are_that_token() -> None:
    x = torch.randn(2, 9, 6)
    mask = (torch.arange(9) == 4).expand(2, 9)
    for kind in ("mean", "sqrt", "max", "weighted", "sum"):
        close(Pool(kind)(x, mask), x[:, 4])
