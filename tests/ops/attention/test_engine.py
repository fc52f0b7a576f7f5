"""The engine's plain form is softmax_attn, and a query that sees no key gives nothing."""

import pytest
import torch

from ops.attention.engine import ScoreAttention, masked_softmax
from ops.attention.softmax import SoftmaxAttention
from tests.ops.attention.plain import data
from tests.ops.case import close


@pytest.mark.parametrize("pos", ["none", "rope", "alibi"])
@pytest.mark.parametrize("causal", [False, True])
def test_the_plain_engine_is_softmax_attention(pos: str, causal: bool) -> None:
    plain = ScoreAttention(12, 6, causal, pos, kv_heads=2).double()
    softmax = SoftmaxAttention(12, 6, kv_heads=2, causal=causal, pos=pos).double()
    softmax.load_state_dict(plain.state_dict())
    mask = torch.arange(21) < torch.tensor([21, 13])[:, None]
    close(plain(data()), softmax.alone(data()))
    close(plain(data(), mask)[mask], softmax.alone(data(), mask=mask)[mask])
    close(plain(data(), mask), softmax(data(), mask=mask)[0])


def test_a_row_without_keys_is_zero_and_so_is_its_gradient() -> None:
    scores = torch.randn(2, 3, requires_grad=True)
    weights = masked_softmax(scores, torch.tensor([[True, False, True], [False] * 3]))
    weights.square().sum().backward()
    close(weights.sum(-1), torch.tensor([1.0, 0.0]))
    assert scores.grad is not None
    assert not scores.grad[1].any()
