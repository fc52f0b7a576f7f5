"""Clone: the same value several times."""

import torch

from ops.merge.add import Add
from ops.shape.clone import OP, Clone
from ops.spec import seq, tokens
from tests.ops.case import Case, close

OP_NAME = "clone"
TUPLE = "the op gives a tuple of values: its own test compares them"
CASES = [
    Case(kind, {"copies": copies}, waive=dict.fromkeys(CHECKS, TUPLE))
    for kind, copies in ((seq(9, 6, may_pad=True), 2), (tokens(9, 11), 4))
    for CHECKS in [("types", "causality", "a_causal_op_without_state_is_position_wise")]
]


def test_every_copy_is_the_value() -> None:
    x = torch.randn(2, 9, 6)
    copies = Clone(4)(x)
    assert len(copies) == 4
    assert all(torch.equal(copy, x) for copy in copies)
    assert OP.shape(seq(9, 6, may_pad=True), copies=4) == (seq(9, 6, may_pad=True),) * 4


def test_added_up_it_is_a_multiple() -> None:
    x = torch.randn(2, 9, 6)
    close(Add()(*Clone(4)(x)), 4 * x)
