"""Decay by channel and a rank-one part: chunks, recurrence, the two simpler engines, gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ops.kernels.delta import chunked_delta
from ops.kernels.diagonal import chunked_diagonal
from ops.kernels.dplr import chunked_dplr, dplr_step
from tests.ops.case import close


def inputs(length: int, heads: int = 3, key: int = 4, value: int = 5) -> tuple[Tensor, ...]:
    """q, k, v, a = -kappa, b = rate kappa, g."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, heads, length, key, dtype=torch.float64)
    v = torch.randn(2, heads, length, value, dtype=torch.float64)
    kappa = F.normalize(torch.randn_like(k), dim=-1)
    rate, gate = torch.rand(2, 2, heads, length, key, dtype=torch.float64)
    return q, k, v, -kappa, kappa * rate, -2 * gate


def recurrent(parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    q, v = parts[0], parts[2]
    state, out = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]), []
    for t in range(q.shape[2]):
        y, state = dplr_step(*(z[:, :, t] for z in parts), state)
        out.append(y)
    return torch.stack(out, 2), state


def test_the_recurrence_is_its_matrix_form() -> None:
    q, k, v, a, b, g = (z[0, 0] for z in inputs(9))
    state = torch.zeros(4, 5, dtype=torch.float64)
    found, _ = recurrent(inputs(9))
    for t in range(9):
        move = torch.diag(g[t].exp()) + torch.outer(b[t], a[t])
        state = move @ state + torch.outer(k[t], v[t])
        close(found[0, 0, t], state.T @ q[t])


@pytest.mark.parametrize("length", [1, 5, 16, 63])
@pytest.mark.parametrize("chunk", [1, 16, 64])
def test_chunks_equal_the_recurrence(length: int, chunk: int) -> None:
    parts = inputs(length)
    close(chunked_dplr(*parts, chunk=chunk), recurrent(parts))


def test_without_the_rank_one_part_it_is_the_diagonal_engine() -> None:
    q, k, v, a, b, g = inputs(37)
    close(chunked_dplr(q, k, v, a, 0 * b, g), chunked_diagonal(q, k, v, g))


def test_one_decay_and_one_rate_a_head_are_the_gated_delta_rule() -> None:
    q, k, v, _, _, g = inputs(37)
    k, g, beta = F.normalize(k, dim=-1), g[..., :1], torch.rand(2, 3, 37, 1, dtype=torch.float64)
    found = chunked_dplr(q, beta * k, v, -g.exp() * k, beta * k, g.expand_as(k))
    close(found, chunked_delta(q, k, v, beta[..., 0], g[..., 0]))


def test_a_sequence_in_two_parts_equals_one_call() -> None:
    parts = inputs(37)
    first, state = chunked_dplr(*(z[:, :, :21] for z in parts), chunk=8)
    second, last = chunked_dplr(*(z[:, :, 21:] for z in parts), state, chunk=8)
    close((torch.cat([first, second], 2), last), chunked_dplr(*parts))


def test_gradients_of_all_inputs() -> None:
    parts = [z[:1, :2].clone().requires_grad_() for z in inputs(7)]
    state = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *xs: chunked_dplr(*xs, chunk=3), (*parts, state))


def test_strong_decay_over_1000_tokens_is_exact_and_has_finite_gradients() -> None:
    parts = [z.float() for z in inputs(1000, heads=1)]
    parts[5][..., 0], parts[5][..., 1] = -40.0, -1e-4
    parts = [z.requires_grad_() for z in parts]
    y, last = chunked_dplr(*parts)
    exact = recurrent(tuple(z.detach().double() for z in parts))
    close(y, exact[0].float(), scale=1000)
    (y.square().mean() + last.mean()).backward()
    assert all(z.grad is not None and z.grad.isfinite().all() for z in parts)
