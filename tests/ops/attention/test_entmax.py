"""Entmax: the simplex, its limits, its exact gradient; sparsemax is alpha = 2."""

import pytest
import torch
from torch.autograd import gradcheck

from ops.attention.entmax import EntmaxAttention
from ops.attention.sparse_weights import entmax_weights, sparsemax_weights
from ops.spec import seq
from tests.ops.attention.plain import data, plain
from tests.ops.case import Case, close

OP_NAME = "entmax_attn"
CASES = [
    Case(seq(33, 12, may_pad=True), {"heads": 3, "causal": True}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "alpha": 1.2, "pos": "alibi"}),
    Case(seq(21, 12), {"heads": 3, "causal": True, "alpha": None, "pos": "rope"}),
    Case(seq(9, 12, may_pad=True), {"heads": 1, "alpha": 2.0}),
]


def scores(*shape: int) -> torch.Tensor:
    torch.manual_seed(2)
    return 3 * torch.randn(*shape, dtype=torch.float64)


def weights(z: torch.Tensor, alpha: float) -> torch.Tensor:
    return entmax_weights(z, None, z.new_tensor(alpha))


@pytest.mark.parametrize("alpha", [1.05, 1.25, 1.5, 1.75, 2.0])
def test_rows_are_on_the_simplex_and_ignore_constants(alpha: float) -> None:
    for size in (1.0, 1e-3, 1e4):
        p = weights(size * scores(5, 300), alpha)
        close(p.sum(-1), torch.ones(5, dtype=torch.float64))
        assert (p >= 0).all()
    close(weights(scores(5, 9) + 100, alpha), weights(scores(5, 9), alpha), scale=10)


@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0])
def test_the_optimum_beats_its_neighbours(alpha: float) -> None:
    z = scores(12)

    def worth(p: torch.Tensor) -> torch.Tensor:
        return p @ z + (p - p**alpha).sum() / (alpha * (alpha - 1))

    best = weights(z, alpha)
    for seed in range(20):
        torch.manual_seed(seed)
        other = 0.99 * best + 0.01 * torch.rand(12, dtype=torch.float64).softmax(-1)
        assert worth(best) >= worth(other)


def test_the_exact_sort_of_entmax_15_agrees() -> None:
    z = scores(40)
    x = ((z - z.max()) / 2).sort(descending=True).values
    rank = torch.arange(1, 41)
    mean, mean_square = x.cumsum(0) / rank, x.square().cumsum(0) / rank
    spread = rank * (mean_square - mean.square())
    tau = mean - ((1 - spread) / rank).clamp_min(0).sqrt()
    at = int((tau <= x).sum()) - 1
    close(weights(z, 1.5), ((z - z.max()) / 2 - tau[at]).clamp_min(0).square())


def test_alpha_2_is_sparsemax_and_alpha_near_1_is_nearly_softmax() -> None:
    z = scores(4, 50)
    close(weights(z, 2.0), sparsemax_weights(z, None))
    torch.testing.assert_close(weights(z, 1.01), z.softmax(-1), rtol=0.2, atol=5e-3)


def test_the_support_shrinks_as_alpha_grows() -> None:
    z = scores(50)
    sizes = [int((weights(z, a) > 0).sum()) for a in (1.05, 1.25, 1.5, 1.75, 2.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


@pytest.mark.parametrize("alpha", [1.3, 1.5, 2.0])
def test_gradients_of_scores_and_alpha_are_exact(alpha: float) -> None:
    z = scores(2, 6).requires_grad_()
    seen = torch.tensor([[True] * 5 + [False], [True] * 6])
    assert gradcheck(lambda s: entmax_weights(s, seen, s.new_tensor(alpha)), (z,))
    a = torch.tensor([[1.3], [1.6]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s, b: entmax_weights(s, seen, b), (z, a))


def test_the_closed_form_of_the_backward_pass() -> None:
    z = scores(1, 8).requires_grad_()
    p = weights(z, 1.5)
    given = torch.randn(1, 8, dtype=torch.float64)
    p.backward(given)
    g = torch.where(p > 0, p.detach().clamp_min(1e-300) ** 0.5, 0.0)
    assert z.grad is not None
    close(z.grad, g * (given - (g * given).sum() / g.sum()))


def test_small_scores_make_softmax_and_entmax_alike() -> None:
    layer = EntmaxAttention(12, 3, causal=True).double()
    torch.nn.init.zeros_(layer.q.weight)
    close(layer(data()), plain(layer)(data()))
