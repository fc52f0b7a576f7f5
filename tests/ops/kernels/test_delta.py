"""The delta rule: chunks, recurrence, exact retrieval, and the engines it agrees with."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ops.kernels.chunked import chunked_decay
from ops.kernels.delta import chunked_delta, delta_step
from tests.ops.case import close


def inputs(length: int, heads: int = 3, key: int = 4, value: int = 5) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, heads, length, key, dtype=torch.float64)
    v = torch.randn(2, heads, length, value, dtype=torch.float64)
    beta = torch.rand(2, heads, length, dtype=torch.float64)
    return q, F.normalize(k, dim=-1), v, beta, -torch.rand(2, heads, length, dtype=torch.float64)


def looped(parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    q, v = parts[0], parts[2]
    state, out = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]), []
    for t in range(q.shape[2]):
        y, state = delta_step(*(z[:, :, t] for z in parts), state)
        out.append(y)
    return torch.stack(out, 2), state


@pytest.mark.parametrize("length", [1, 5, 16, 63])
@pytest.mark.parametrize("chunk", [1, 16, 64])
def test_chunks_equal_the_recurrence(length: int, chunk: int) -> None:
    parts = inputs(length)
    close(chunked_delta(*parts, chunk=chunk), looped(parts))


def test_recurrence_is_the_published_matrix_form() -> None:
    q, k, v, beta, g = (z[0, 0] for z in inputs(9))
    state, eye = torch.zeros(4, 5, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    out = []
    for t in range(9):
        state = g[t].exp() * (eye - beta[t] * torch.outer(k[t], k[t])) @ state
        state = state + beta[t] * torch.outer(k[t], v[t])
        out.append(state.T @ q[t])
    close(looped(inputs(9))[0][0, 0], torch.stack(out))


def test_orthonormal_keys_give_their_values_back() -> None:
    k = torch.linalg.qr(torch.randn(3, 6, 6, dtype=torch.float64))[0][None]
    v = torch.randn(1, 3, 6, 5, dtype=torch.float64)
    one, none = k.new_ones(1), k.new_zeros(1)
    _, state = chunked_delta(k, k, v, one, none)
    close(k @ state, v)


def test_a_repeated_key_holds_its_last_value() -> None:
    _, k, v, _, _ = inputs(20)
    k = k[:, :, :1].expand_as(k)
    y, _ = chunked_delta(k, k, v, k.new_ones(1), k.new_zeros(1))
    close(y, v)


def test_without_writing_the_state_only_decays() -> None:
    q, k, v, _, g = inputs(21)
    state = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    y, last = chunked_delta(q, k, v, q.new_zeros(1), g, state)
    expected, decayed = chunked_decay(q, torch.zeros_like(k), v, g, state)
    close((y, last), (expected, decayed))


def test_a_sequence_in_two_parts_equals_one_call() -> None:
    parts = inputs(37)
    first, state = chunked_delta(*(z[:, :, :21] for z in parts), chunk=8)
    second, last = chunked_delta(*(z[:, :, 21:] for z in parts), state, chunk=8)
    close((torch.cat([first, second], 2), last), chunked_delta(*parts))


def test_gradients_of_all_inputs() -> None:
    given = [z[:1, :2].clone().requires_grad_() for z in inputs(7)]
    state = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *z: chunked_delta(*z, chunk=3), (*given, state))


def test_alike_keys_stay_exact_in_fp32() -> None:
    """A power series of the triangular matrix would overflow here: its terms reach 1e18."""
    q, k, v, _, _ = inputs(200, heads=1, key=8)
    k = F.normalize(k[:, :, :1] + 0.05 * k, dim=-1)
    beta, g = q.new_full((1,), 0.95), q.new_zeros(1)
    exact = looped((q, k, v, *(z.expand(2, 1, 200) for z in (beta, g))))[0]
    y, _ = chunked_delta(*(z.float() for z in (q, k, v, beta, g)))
    close(y, exact.float(), scale=50)


def test_strong_decay_over_2000_tokens_has_finite_gradients() -> None:
    given = [z.float() for z in inputs(2000, heads=1)]
    given[-1] = torch.full_like(given[-1], -40.0)
    leaves = [z.requires_grad_() for z in given]
    y, last = chunked_delta(*leaves)
    (y.square().mean() + last.mean()).backward()
    assert y.isfinite().all()
    assert all(z.grad is not None and z.grad.isfinite().all() for z in leaves)
