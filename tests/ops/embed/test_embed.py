"""Embedding: rows of a table."""

import pytest
import torch

from ops.embed.embed import OP, Embed
from ops.spec import Mismatch, TensorType, seq, tokens
from tests.ops.case import Case

OP_NAME = "embed"
CASES = [Case(tokens(9, 11), {"dim": 6}), Case(tokens(7, 300, may_pad=True), {"dim": 5})]


def test_each_id_gets_its_row() -> None:
    layer = Embed(4, 10)
    ids = torch.tensor([[3, 3, 0], [9, 1, 3]])
    assert torch.equal(layer(ids), layer.weight[ids])


def test_rows_start_with_variance_one() -> None:
    torch.manual_seed(0)
    assert Embed(64, 500).weight.std().item() == pytest.approx(1.0, abs=0.02)


def test_padding_stays_possible() -> None:
    assert OP.shape(tokens(7, 300, may_pad=True), dim=5) == seq(7, 5, may_pad=True)


def test_only_tokens_with_a_vocabulary() -> None:
    with pytest.raises(Mismatch, match="needs tokens"):
        OP.shape(seq(7, 5), dim=5)
    with pytest.raises(Mismatch, match="no vocabulary"):
        OP.shape(TensorType("tokens", (7,)), dim=5)
