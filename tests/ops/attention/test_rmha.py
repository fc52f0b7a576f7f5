"""Relative attention: the sum pair by pair, plain and ALiBi limits, shifts."""

import math

import pytest
import torch
from torch import Tensor, nn

from ops.attention.engine import split_heads
from ops.attention.lags import LagScores
from ops.attention.rmha import OP, RelativeAttention
from ops.kernels.positions import alibi_slopes
from ops.spec import Mismatch, seq
from tests.ops.attention.plain import data, plain
from tests.ops.case import Case, close, complete

OP_NAME = "rmha"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "causal": True, "reach": 256}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "reach": 21}),
    Case(
        seq(21, 12, may_pad=True),
        {"heads": 3, "form": "sinusoid", "causal": True},
        flops="analytic",
    ),
    Case(seq(9, 10), {"heads": 2, "form": "sinusoid"}, flops="analytic"),
]


def randomised(layer: nn.Module) -> None:
    torch.manual_seed(4)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)


def pair_by_pair(lags: LagScores, q: Tensor, k: Tensor) -> Tensor:
    """The definition: a loop over pairs (entries above the diagonal 0 if causal)."""
    out = q.new_zeros(*q.shape[:3], k.shape[2])
    for t in range(q.shape[2]):
        for s in range(k.shape[2]):
            m = t - s
            if lags.causal and m < 0:
                continue
            e = ((q[:, :, t] + lags.content) * k[:, :, s]).sum(-1)
            if lags.keys is not None and lags.offsets is not None:
                row = m if lags.causal else m + lags.reach - 1
                e = e + (q[:, :, t] * lags.keys[:, row]).sum(-1) + lags.offsets[:, row]
            else:
                assert lags.place is not None
                assert lags.turn is not None
                dim = lags.turn.in_features
                f = torch.tensor(
                    [10000.0 ** (-2 * c / dim) for c in range(dim // 2)], dtype=torch.float64
                )
                r = lags.turn(torch.cat([(m * f).sin(), (m * f).cos()])).view(lags.place.shape)
                e = e + ((q[:, :, t] + lags.place) * r).sum(-1)
            out[:, :, t, s] = e
    return out


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("form", ["table", "sinusoid"])
def test_lags_are_what_the_loop_says(causal: bool, form: str) -> None:
    lags = LagScores(3, 4, 11, causal, form).double()
    randomised(lags)
    q, k = torch.randn(2, 2, 3, 9, 4, dtype=torch.float64)
    gap = torch.arange(9)[:, None] - torch.arange(9)
    found = lags(q, k, gap)
    close(found.tril() if causal else found, pair_by_pair(lags, q, k))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("form", ["table", "sinusoid"])
def test_without_relative_terms_it_is_plain(causal: bool, form: str) -> None:
    layer = RelativeAttention(12, 3, causal, form, 32).double()
    if layer.lags.turn is not None:
        nn.init.zeros_(layer.lags.turn.weight)
    close(layer(data()), plain(layer)(data()))


@pytest.mark.parametrize("causal", [False, True])
def test_offsets_shift_nothing_and_slopes_are_alibi(causal: bool) -> None:
    layer = RelativeAttention(12, 3, causal, reach=32).double()
    assert layer.lags.offsets is not None
    nn.init.constant_(layer.lags.offsets, 2.5)
    close(layer(data()), plain(layer)(data()))
    far = torch.arange(32) if causal else torch.arange(-31, 32).abs()
    with torch.no_grad():
        layer.lags.offsets.copy_(-alibi_slopes(3)[:, None] * far * math.sqrt(4))
    alibi = plain(layer)
    alibi.pos = "alibi"
    alibi.register_buffer("slopes", alibi_slopes(3))
    close(layer(data()), alibi(data()))


def test_a_shifted_sequence_gives_shifted_outputs() -> None:
    layer = RelativeAttention(12, 3, True, reach=64).double()
    randomised(layer)
    x = data()
    late = torch.cat([torch.zeros(2, 10, 12).double(), x], dim=1)
    mask = (torch.arange(31) >= 10).expand(2, 31)
    close(layer(late, mask)[:, 10:], layer(x))


def test_a_sequence_beyond_the_reach_is_refused() -> None:
    with pytest.raises(Mismatch, match="shorter than the sequence"):
        OP.shape(seq(40, 12), **complete(OP, {"heads": 3, "reach": 39}))
    assert split_heads(torch.zeros(1, 2, 6), 3).shape == (1, 3, 2, 2)
