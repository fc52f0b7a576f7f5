"""What the tables of parity call equal: outputs, gradients of the input and of copied weights."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.parity.pairs import TOLERANCE, Pair, copy, differences, table

Peer = Callable[[Tensor, nn.Linear], Tensor]


def pair(peer: Peer, note: str = "") -> Pair:
    """A linear layer whose rows are those of a peer in another order."""
    torch.manual_seed(0)
    ours, theirs = (nn.Linear(32, 32).double() for _ in range(2))
    order = torch.randperm(32)
    copy([(ours.weight, theirs.weight[order]), (ours.bias, theirs.bias[order])])
    return Pair("ours", "theirs", ours, lambda x: peer(x, theirs)[..., order], note)


def x() -> Tensor:
    return torch.randn(2, 5, 32, dtype=torch.float64)


def test_weights_are_compared_through_the_way_they_were_copied() -> None:
    output, given, weights = differences(pair(lambda x, theirs: theirs(x)), x())
    assert weights is not None
    assert max(output, given, weights) < 1e-12


def test_a_weight_that_the_peer_does_not_train_is_seen() -> None:
    still = pair(lambda x, theirs: F.linear(x, theirs.weight.detach(), theirs.bias))
    output, given, weights = differences(still, x())
    assert max(output, given) < 1e-12
    assert weights == 1.0


def test_a_peer_with_our_own_weights_is_compared_by_them() -> None:
    layer = nn.Linear(32, 32, bias=False).double()
    twice = Pair("ours", "theirs", layer, lambda x: layer(x) / 2 + layer(x).detach() / 2)
    output, given, weights = differences(twice, x())
    assert output < 1e-12
    assert abs(given - 1.0) < 1e-12  # half the gradient, as a share of the peer's
    assert weights is not None
    assert abs(weights - 0.5) < 1e-12


def test_a_difference_without_a_note_fails_the_table() -> None:
    far: Peer = lambda x, theirs: theirs(x) + 1  # noqa: E731  # a row of a table
    assert table([lambda: iter([pair(far, note="shifted by one")])]) == 0
    assert table([lambda: iter([pair(far)])]) == 1
    assert TOLERANCE == 1e-5


def test_a_peer_that_is_not_installed_is_left_out() -> None:
    def missing() -> object:
        raise ImportError("no such peer")

    assert table([missing]) == 0  # type: ignore[list-item]  # it never yields
