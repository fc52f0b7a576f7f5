"""Split: equal parts in order, only where they are whole."""

import pytest
import torch

from ops.shape.split import OP, Split
from ops.spec import Mismatch, image, seq, vec
from tests.ops.case import BATCH, Case, bench, matches

OP_NAME = "split"
TUPLE = "the op gives a tuple of values: its own test compares them"
WAIVE = dict.fromkeys(("types", "causality", "a_causal_op_without_state_is_position_wise"), TUPLE)
CASES = [
    Case(seq(9, 6, may_pad=True), {"axis": 2, "parts": 3}, waive=WAIVE),
    Case(seq(9, 6), {"axis": 1, "parts": 3}, waive=WAIVE),
    Case(vec(8), {"axis": 1, "parts": 4}, waive=WAIVE),
    Case(image(3, 4, 6), {"axis": 3, "parts": 2}, waive=WAIVE),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.x))
def test_the_parts_are_slices_of_the_inferred_type(case: Case) -> None:
    run = bench("split", case)
    (x,) = run.data()
    axis, parts = case.params["axis"], case.params["parts"]
    size = x.shape[axis] // parts
    values = run.build()(x)
    assert len(values) == len(run.outputs) == parts
    assert x.shape[0] == BATCH
    for i, (kind, value) in enumerate(zip(run.outputs, values, strict=True)):
        assert matches(kind, value)
        assert torch.equal(value, x.narrow(axis, i * size, size))


def test_in_time_it_is_not_causal_and_the_grid_is_lost() -> None:
    x = seq(9, 6, grid=(3, 3))
    assert not OP.is_causal(x, axis=1, parts=3)
    assert OP.shape(x, axis=1, parts=3) == (seq(3, 6),) * 3
    assert OP.is_causal(x, axis=2, parts=3)
    assert OP.shape(x, axis=2, parts=3) == (seq(9, 2, grid=(3, 3)),) * 3


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(Mismatch, match="parts=4 does not divide 6") as found:
        OP.shape(seq(9, 6), axis=2, parts=4)
    assert found.value.hint == "parts may be 2, 3, 6 here"
    with pytest.raises(Mismatch, match="axis=3"):
        OP.shape(seq(9, 6), axis=3, parts=2)
    with pytest.raises(Mismatch, match="padded"):
        OP.shape(seq(8, 6, may_pad=True), axis=1, parts=2)


def test_a_part_in_the_width_sees_no_later_token() -> None:
    x = torch.randn(1, 9, 6)
    changed = x.clone()
    changed[:, 5:] += 1.0
    for before, after in zip(Split(2, 3)(x), Split(2, 3)(changed), strict=True):
        assert torch.equal(before[:, :5], after[:, :5])
