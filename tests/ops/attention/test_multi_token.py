"""Multi-token attention: identity kernels are plain, the sum pair by pair, no later keys."""

import pytest
import torch
from torch import nn

from ops.attention.multi_token import OP, MultiTokenAttention
from ops.spec import Mismatch, seq
from tests.ops.attention.plain import data, plain
from tests.ops.case import Case, close, complete

OP_NAME = "multi_token_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 6, "causal": True}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "pos": "rope", "group": 3, "queries": 2}),
    Case(
        seq(21, 12),
        {"heads": 3, "causal": True, "pos": "alibi", "group": 1, "keys": 3, "norm": False},
    ),
]


@pytest.mark.parametrize("causal", [False, True])
def test_identity_kernels_are_plain(causal: bool) -> None:
    layer = MultiTokenAttention(12, 6, causal, norm=False).double()
    close(layer(data()), plain(layer)(data()))


@pytest.mark.parametrize("causal", [False, True])
def test_the_convolution_is_the_sum_over_neighbours(causal: bool) -> None:
    layer = MultiTokenAttention(12, 6, causal, queries=3, keys=5, group=1).double()
    nn.init.normal_(layer.kernel)
    z = torch.randn(1, 6, 7, 7, dtype=torch.float64)
    z = z.tril() if causal else z
    found = layer.convolve(nn.functional.pad(z, (0, 0, 2, 0)))
    for t, s in ((0, 0), (4, 2), (6, 6)):
        total = torch.zeros(6, dtype=torch.float64)
        for i in range(3):
            for j in range(-2, 3):
                if t - i >= 0 and 0 <= s + j < 7:
                    total += layer.kernel[:, 0, 2 - i, 2 + j] * z[0, :, t - i, s + j]
        close(found[0, :, t, s], total)


def test_heads_mix_inside_their_group_only() -> None:
    layer = MultiTokenAttention(12, 6, group=3).double()
    nn.init.normal_(layer.heads_mix)
    scores = torch.randn(1, 6, 4, 4, dtype=torch.float64)
    changed = scores.clone()
    changed[:, 4] += torch.randn(4, dtype=torch.float64)
    same = torch.isclose(layer.weigh(scores, None), layer.weigh(changed, None)).all((0, 2, 3))
    assert same.tolist() == [True] * 3 + [False] * 3


def test_random_kernels_never_read_later_keys() -> None:
    layer = MultiTokenAttention(12, 6, causal=True).double()
    nn.init.normal_(layer.kernel)
    x = data().requires_grad_()
    layer(x)[:, 9].sum().backward()
    assert x.grad is not None
    assert not x.grad[:, 10:].any()
    assert x.grad[:, :10].any(-1).all()


def test_refusals() -> None:
    for settings, reason in (({"keys": 4}, "no centre"), ({"group": 4}, "does not divide heads")):
        with pytest.raises(Mismatch, match=reason):
            OP.shape(seq(9, 12), **complete(OP, {"heads": 6, **settings}))
