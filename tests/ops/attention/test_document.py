"""Documents do not see each other; a separator belongs to the text that it ends."""

import pytest
import torch

from ops.attention.document import OP, DocumentAttention
from ops.spec import Mismatch, seq, tokens
from tests.ops.attention.plain import data, plain
from tests.ops.case import Case, close, complete

OP_NAME = "document_attn"
IDS = (tokens(21, 4),)
CASES = [
    Case(
        seq(63, 12, may_pad=True),
        {"heads": 3, "causal": True, "separator": 3},
        inputs=(tokens(63, 9, may_pad=True),),
    ),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "pos": "alibi", "separator": 1}, inputs=IDS),
    Case(seq(21, 12), {"heads": 3, "causal": True, "pos": "rope", "separator": 7}, inputs=IDS),
]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("pos", ["none", "rope", "alibi"])
def test_each_document_is_as_if_it_were_alone(causal: bool, pos: str) -> None:
    layer = DocumentAttention(12, 3, causal, pos, separator=9).double()
    ids = torch.ones(2, 21, dtype=torch.long)
    ids[:, [4, 12]] = 9
    y = layer(data(), ids)
    for first, last in ((0, 5), (5, 13), (13, 21)):
        close(y[:, first:last], plain(layer)(data()[:, first:last]))


def test_without_separators_it_is_dense() -> None:
    layer = DocumentAttention(12, 3, causal=True, separator=9).double()
    close(layer(data(), torch.ones(2, 21, dtype=torch.long)), plain(layer)(data()))


def test_every_token_a_separator_is_the_value_projection() -> None:
    layer = DocumentAttention(12, 3, separator=1).double()
    y = layer(data(), torch.ones(2, 21, dtype=torch.long))
    close(y, layer.out(layer.kv(data())[..., 12:]))


def test_ids_of_another_sequence_are_refused() -> None:
    with pytest.raises(Mismatch, match="are not those"):
        OP.shape(seq(9, 12), tokens(8, 4), **complete(OP, {"heads": 3, "separator": 0}))
