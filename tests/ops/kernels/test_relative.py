"""Positions inside attention."""

import pytest
import torch

from ops.kernels.relative import by_gap


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 7), (5, 1), (6, 6), (4, 7), (9, 2)])
def test_an_entry_is_the_value_of_its_gap_and_gradients_are_summed(rows: int, columns: int) -> None:
    values = torch.randn(3, rows + columns - 1, dtype=torch.float64, requires_grad=True)
    gap = torch.arange(rows)[:, None] - torch.arange(columns)
    found, expected = by_gap(values, rows), values[:, rows - 1 - gap]
    assert torch.equal(found, expected)
    weight = torch.randn_like(found)
    pair = [torch.autograd.grad((z * weight).sum(), values)[0] for z in (found, expected)]
    torch.testing.assert_close(*pair)
