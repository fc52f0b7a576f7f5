"""Identity: nothing changes, not even the object."""

import torch

from ops.shape.id import OP, Id
from ops.spec import image, seq, tokens
from tests.ops.case import Case

OP_NAME = "id"
CASES = [Case(seq(9, 6, may_pad=True)), Case(image(3, 4, 5)), Case(tokens(9, 11))]


def test_it_gives_the_value_itself() -> None:
    x = torch.randn(2, 9, 6)
    assert Id()(x) is x


def test_the_type_keeps_everything() -> None:
    kind = tokens(9, 11, may_pad=True)
    assert OP.shape(kind) is kind
