"""Decay by key channel: chunks, recurrence, scalar engine, bonus, strong gates, gradients."""

import pytest
import torch
from torch import Tensor

from ops.kernels.chunked import chunked_decay
from ops.kernels.diagonal import chunked_diagonal, diagonal_step
from tests.ops.case import close


def inputs(length: int, heads: int = 3, key: int = 4, value: int = 5) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, heads, length, key, dtype=torch.float64)
    v = torch.randn(2, heads, length, value, dtype=torch.float64)
    return q, k, v, -2 * torch.rand(2, heads, length, key, dtype=torch.float64)


def recurrent(parts: tuple[Tensor, ...], bonus: Tensor | None) -> tuple[Tensor, Tensor]:
    q, v = parts[0], parts[2]
    state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    out = []
    for t in range(q.shape[2]):
        y, state = diagonal_step(*(z[:, :, t] for z in parts), state, bonus)
        out.append(y)
    return torch.stack(out, 2), state


@pytest.mark.parametrize("length", [1, 5, 16, 63])
@pytest.mark.parametrize("chunk", [1, 16, 64])
@pytest.mark.parametrize("with_bonus", [False, True])
def test_chunks_equal_the_recurrence(length: int, chunk: int, with_bonus: bool) -> None:
    parts = inputs(length)
    bonus = torch.randn(3, 4, dtype=torch.float64) if with_bonus else None
    close(chunked_diagonal(*parts, bonus=bonus, chunk=chunk), recurrent(parts, bonus))


def test_equal_channels_are_the_scalar_engine() -> None:
    q, k, v, g = inputs(63)
    same = g[..., :1]
    close(chunked_diagonal(q, k, v, same.expand_as(g)), chunked_decay(q, k, v, same[..., 0]))


def test_a_sequence_in_two_parts_equals_one_call() -> None:
    parts, bonus = inputs(37), torch.randn(3, 4, dtype=torch.float64)
    first, state = chunked_diagonal(*(z[:, :, :21] for z in parts), bonus=bonus, chunk=8)
    second, last = chunked_diagonal(*(z[:, :, 21:] for z in parts), state, bonus, chunk=8)
    close((torch.cat([first, second], 2), last), chunked_diagonal(*parts, bonus=bonus))


def test_gradients_of_all_inputs() -> None:
    parts = [z[:1, :2].clone().requires_grad_() for z in inputs(7)]
    state = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    bonus = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    for u in (bonus, None):
        assert torch.autograd.gradcheck(
            lambda q, k, v, g, s, u=u: chunked_diagonal(q, k, v, g, s, u, chunk=3), (*parts, state)
        )
    assert torch.autograd.gradcheck(
        lambda u: chunked_diagonal(*(p.detach() for p in parts), bonus=u, chunk=3), (bonus,)
    )


def test_strong_decay_over_2000_tokens_is_exact_and_has_finite_gradients() -> None:
    q, k, v, g = (z.float() for z in inputs(2000, heads=1))
    g[..., 0], g[..., 1] = -40.0, -1e-4
    parts = [z.requires_grad_() for z in (q, k, v, g)]
    y, last = chunked_diagonal(*parts)
    exact = recurrent(tuple(z.detach().double() for z in parts), None)
    close(y.double(), exact[0], scale=1e6)
    close(y, exact[0].float(), scale=100)
    (y.square().mean() + last.mean()).backward()
    assert all(z.grad is not None and z.grad.isfinite().all() for z in parts)
