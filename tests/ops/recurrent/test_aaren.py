"""Aaren: attention with a repeated query, a cumulative mean, a dominant key, the paper's count."""

import torch
from torch.nn import functional as F

from ops.recurrent.aaren import OP, Aaren
from ops.spec import seq
from tests.ops.case import Case, close, complete

OP_NAME = "aaren"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3}),
    Case(seq(90, 12, may_pad=True), {"heads": 1, "bias": False}),
    Case(seq(1, 6), {"heads": 2}),
]


def test_it_is_causal_attention_with_the_same_query_everywhere() -> None:
    torch.manual_seed(0)
    layer = Aaren(12, heads=3).double()
    x = torch.randn(2, 90, 12, dtype=torch.float64)
    k, v = layer.kv(x).unflatten(-1, (2, 3, 4)).permute(2, 0, 3, 1, 4)
    q = layer.query(layer.token).view(1, 3, 1, 4).expand(2, 3, 90, 4)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    close(layer(x), layer.out(y.transpose(1, 2).flatten(2)))


def test_a_zero_query_gives_the_cumulative_mean() -> None:
    layer = Aaren(12, heads=3, bias=False).double()
    torch.nn.init.zeros_(layer.token)
    x = torch.randn(2, 80, 12, dtype=torch.float64)
    mean = layer.kv(x)[..., 12:].cumsum(1) / torch.arange(1, 81)[:, None]
    close(layer(x), layer.out(mean))


def test_after_a_dominant_key_its_value_stays() -> None:
    layer = Aaren(12, heads=1, bias=False).double()
    x = torch.randn(1, 80, 12, dtype=torch.float64)
    score = layer.project(x)[0][0, 0]
    best = int(score.argmax())
    with torch.no_grad():
        layer.token *= 1e5 / (score.topk(2).values @ torch.tensor([1.0, -1.0]).double())
    y = layer(x)
    value = layer.out(layer.kv(x)[:, best : best + 1, 12:])
    close(y[:, best:], value.expand_as(y[:, best:]))


def test_one_token_is_its_own_value() -> None:
    layer = Aaren(12, heads=3).double()
    x = torch.randn(2, 1, 12, dtype=torch.float64)
    close(layer(x), layer.out(layer.kv(x)[..., 12:]))


def test_tokens_marked_as_padding_in_the_middle_take_no_part() -> None:
    layer = Aaren(12, heads=3).double()
    x = torch.randn(1, 70, 12, dtype=torch.float64)
    mask = torch.rand(1, 70) < 0.6
    close(layer(x, mask=mask)[mask], layer(x[mask][None])[0])


def test_it_adds_one_vector_to_the_parameters_of_an_attention_layer() -> None:
    attention = torch.nn.MultiheadAttention(512, 8)
    count = sum(p.numel() for p in attention.parameters())
    assert OP.cost(seq(10, 512), **complete(OP, {"heads": 8})).params == count + 512
