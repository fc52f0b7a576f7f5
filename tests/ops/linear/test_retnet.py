"""Retention: the quadratic form, the published rates, and shifts in time."""

import torch

from ops.linear.retnet import Retention
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "retnet"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3}),
    Case(seq(90, 8, may_pad=True), {"heads": 4, "expand_v": 1}),
    Case(seq(1, 6), {"heads": 1}),
]


def test_it_is_the_quadratic_form_with_the_published_rates() -> None:
    layer = Retention(12, heads=3).double()
    layer.decay = torch.log(1 - 2.0 ** (-5 - torch.arange(3, dtype=torch.float64)))
    x = torch.randn(2, 90, 12, dtype=torch.float64)
    q, k, v, gate = layer.project(x, torch.arange(90))
    age = (torch.arange(90)[:, None] - torch.arange(90)).double()
    rate = 1 - 2.0 ** (-5 - torch.arange(3, dtype=torch.float64))
    kept = (rate[:, None, None] ** age).tril()
    close(layer(x), layer.merge((q @ k.mT * kept) @ v, gate))


def test_only_differences_of_positions_matter() -> None:
    layer = Retention(12, heads=3).double()
    x = torch.randn(2, 20, 12, dtype=torch.float64)
    first, second = (layer.project(x, torch.arange(20) + s) for s in (0, 7))
    close(first[0] @ first[1].mT, second[0] @ second[1].mT)
