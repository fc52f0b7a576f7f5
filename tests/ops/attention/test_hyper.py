"""HyperAttention: exact limits, a full sample, an unbiased sum, Gray neighbours, causal halves."""

import pytest
import torch
from torch import Tensor

from ops.attention.engine import split_heads
from ops.attention.hyper import OP, HyperAttention, gray_rank
from ops.attention.reformer import attend_lse
from ops.attention.softmax import SoftmaxAttention
from ops.spec import seq
from tests.ops.attention.plain import data
from tests.ops.case import Case, close, complete

OP_NAME = "hyper_attn"
SMALL = {"heads": 3, "block": 8, "sample": 6, "bits": 3, "exact": 10}
CASES = [
    Case(seq(63, 12, may_pad=True), SMALL),
    Case(seq(45, 12, may_pad=True), {**SMALL, "causal": True}),
    Case(seq(33, 12, may_pad=True), {"heads": 3, "causal": True, "exact": 256}),
    Case(seq(33, 12), {**SMALL, "sample": 0, "bits": 0}),
]


def layer_of(
    causal: bool = False,
    block: int = 8,
    sample: int = 6,
    bits: int = 3,
    exact: int = 4,
    seed: int = 0,
) -> HyperAttention:
    torch.manual_seed(0)
    return HyperAttention(12, 3, causal, block, sample, bits, exact, seed).double()


def dense(layer: HyperAttention, x: Tensor) -> Tensor:
    softmax = SoftmaxAttention(12, 3, causal=layer.causal).double()
    q, kv = layer.qkv.weight.detach().split([12, 24])
    out = layer.out.weight.detach()
    softmax.load_state_dict({"q.weight": q, "kv.weight": kv, "out.weight": out})
    y: Tensor = softmax.alone(x)
    return y


@pytest.mark.parametrize("causal", [False, True])
def test_short_sequences_are_dense(causal: bool) -> None:
    layer = layer_of(causal, exact=21)
    close(layer(data()), dense(layer, data()))


def test_one_block_is_dense_and_a_block_beyond_the_end_too() -> None:
    for block in (21, 64):
        layer = layer_of(block=block)
        close(layer(data()), dense(layer, data()))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("bits", [0, 3])
def test_a_full_sample_is_dense(causal: bool, bits: int) -> None:
    layer = layer_of(causal, block=4, sample=21, bits=bits, exact=5)

    def everything(count: int) -> Tensor:
        layer.sample = count
        return torch.arange(count).expand(3, -1)

    layer.drawn = everything  # type: ignore[method-assign]  # every key once
    close(layer(data()), dense(layer, data()))


def test_without_sort_and_sample_it_is_block_diagonal() -> None:
    layer = layer_of(block=7, sample=0, bits=0)
    y = layer(data())
    for first in (0, 7, 14):
        close(y[:, first : first + 7], dense(layer, data()[:, first : first + 7]))


def test_the_mean_over_seeds_of_the_sum_is_the_dense_sum() -> None:
    q, k, v = torch.randn(3, 1, 3, 40, 4).double()
    real = torch.ones(1, 40, dtype=torch.bool)
    _, want = attend_lse(q, k, v, torch.zeros(1).double())
    sums = [
        layer_of(block=8, sample=8, seed=s).approximate(q, k, v, real, real)[1].exp()
        for s in range(300)
    ]
    torch.testing.assert_close(torch.stack(sums).mean(0), want.exp(), rtol=0.15, atol=0.0)


def test_rows_whose_samples_are_all_in_their_block_stay_finite() -> None:
    layer = layer_of(block=8, sample=2, bits=0)
    layer.drawn = lambda count: torch.zeros(3, 2, dtype=torch.long)  # type: ignore[method-assign]  # one key
    x = data().requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    close(layer(x)[:, :8], dense(layer, x[:, :8]))


def test_neighbouring_buckets_differ_in_one_bit() -> None:
    codes = torch.arange(128)
    rank = gray_rank(codes)
    assert torch.equal(rank.sort().values, codes)
    ordered = codes[rank.argsort()]
    flips = (ordered[1:] ^ ordered[:-1]).tolist()
    assert all(f & (f - 1) == 0 and f for f in flips)


def test_later_tokens_never_give_values() -> None:
    layer = layer_of(causal=True, block=4, sample=3, exact=5)
    x = data()
    q, k, v = (split_heads(z, 3).detach() for z in layer.qkv(x).chunk(3, -1))
    v.requires_grad_()
    o, _ = layer.halves(q, k, v, torch.ones(2, 21, dtype=torch.bool))
    o[:, :, 9].sum().backward()
    assert v.grad is not None
    assert not v.grad[:, :, 10:].any()


def test_it_counts_as_causal_only_where_it_is_exact() -> None:
    params = complete(OP, {"heads": 3, "causal": True, "exact": 64}) | {"seed": 0}
    assert OP.is_causal(seq(64, 12), **params)
    assert not OP.is_causal(seq(65, 12), **params)


def test_gradients_of_the_merge_are_those_of_the_sum() -> None:
    layer = layer_of(block=4, sample=5, bits=2)
    q, k, v = torch.randn(3, 1, 3, 9, 4).double()
    real = torch.ones(1, 9, dtype=torch.bool)
    args = tuple(z.requires_grad_() for z in (q, k, v))
    assert torch.autograd.gradcheck(lambda a, b, c: layer.approximate(a, b, c, real, real)[0], args)
