"""Softmax attention: against the written-out formula, its grouped forms, positions and refusals."""

import math

import pytest
import torch
from torch import Tensor

from ops.attention.softmax import OP, SoftmaxAttention
from ops.kernels.positions import alibi_slopes, rotary
from ops.spec import Mismatch, seq
from tests.ops.case import Case, close, complete

OP_NAME = "softmax_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "causal": True}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "bias": True, "pos": "alibi"}),
    Case(seq(21, 12), {"heads": 6, "kv_heads": 2, "causal": True, "pos": "rope", "qk_norm": True}),
    Case(seq(21, 12), {"heads": 3, "kv_heads": 1, "causal": True, "pos": "alibi"}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "pos": "rope"}),
    Case(seq(9, 12), {"heads": 3, "kv_dim": 10}, inputs=(seq(14, 10),)),
    Case(seq(9, 12, may_pad=True), {"heads": 6, "kv_heads": 3}, inputs=(seq(5, 12),)),
]


def written_out(layer: SoftmaxAttention, x: Tensor, kv: Tensor) -> Tensor:
    """The formula, head by head."""
    q, (k, v) = layer.q(x), layer.kv(kv).chunk(2, -1)
    out = []
    for head in range(layer.heads):
        group = head * layer.kv_heads // layer.heads
        mine, theirs = (slice(n * layer.width, (n + 1) * layer.width) for n in (head, group))
        logits = q[..., mine] @ k[..., theirs].mT / math.sqrt(layer.width)
        if layer.causal:
            logits = logits.masked_fill(torch.ones_like(logits).triu(1).bool(), float("-inf"))
        out.append(logits.softmax(-1) @ v[..., theirs])
    return layer.out(torch.cat(out, -1))


@pytest.mark.parametrize("kv_heads", [None, 3, 2, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_it_is_the_formula(kv_heads: int | None, causal: bool) -> None:
    torch.manual_seed(0)
    layer = SoftmaxAttention(12, heads=6, kv_heads=kv_heads, causal=causal).double()
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    close(layer(x), written_out(layer, x, x))


def test_cross_attention_is_the_formula() -> None:
    torch.manual_seed(0)
    layer = SoftmaxAttention(12, heads=3, kv_dim=10).double()
    x, kv = torch.randn(2, 9, 12).double(), torch.randn(2, 5, 10).double()
    close(layer(x, kv=kv), written_out(layer, x, kv))


def test_without_positions_order_does_not_matter() -> None:
    layer = SoftmaxAttention(12, heads=3).double()
    x, order = torch.randn(2, 9, 12).double(), torch.randperm(9)
    close(layer(x[:, order]), layer(x)[:, order])


def test_rotary_logits_depend_on_the_distance_only() -> None:
    q, k = torch.randn(2, 1, 5, 8, dtype=torch.float64)
    here, there = torch.arange(5), torch.arange(5) + 1000
    close(rotary(q, here) @ rotary(k, here).mT, rotary(q, there) @ rotary(k, there).mT)


def test_alibi_slopes_of_a_power_of_two_and_between() -> None:
    close(alibi_slopes(4), torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8]))
    close(alibi_slopes(3), torch.tensor([2.0**-4, 2.0**-8, 2.0**-2]))


def test_alibi_with_equal_logits_is_a_geometric_average() -> None:
    layer = SoftmaxAttention(4, heads=1, causal=True, pos="alibi").double()
    torch.nn.init.zeros_(layer.q.weight)
    x = torch.randn(1, 3, 4, dtype=torch.float64)
    weights = torch.exp(-layer.slopes[0] * torch.tensor([2.0, 1.0, 0.0])).double()
    v = layer.kv(x)[..., 4:]
    close(layer(x)[0, 2], layer.out((weights / weights.sum()) @ v[0]))


def test_a_sample_of_padding_only_stays_finite() -> None:
    for pos in ("none", "alibi", "rope"):
        for causal in (False, True):
            layer = SoftmaxAttention(12, heads=3, causal=causal, pos=pos)
            x = torch.randn(2, 5, 12, requires_grad=True)
            y = layer(x, mask=torch.tensor([[True] * 5, [False] * 5]))
            y.sum().backward()
            assert y.isfinite().all()
            assert x.grad is not None
            assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("params", "kv", "reason"),
    [
        ({"heads": 5}, None, "heads=5 does not divide"),
        ({"heads": 6, "kv_heads": 4}, None, "kv_heads=4 does not divide heads=6"),
        ({"heads": 4, "pos": "rope"}, None, "even head width"),
        ({"heads": 3, "causal": True}, seq(5, 12), "no causal order"),
        ({"heads": 3}, seq(5, 10), "kv has width 10"),
        ({"heads": 3}, seq(5, 12, may_pad=True), "may be padded"),
        ({"heads": 3, "kv_dim": 10}, None, "without kv"),
    ],
)
def test_refusals(params: dict[str, object], kv: object, reason: str) -> None:
    with pytest.raises(Mismatch, match=reason):
        OP.shape(seq(9, 12), kv, **complete(OP, params))
