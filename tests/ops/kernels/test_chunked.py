"""The chunked recurrence against its quadratic form, its recurrent form and its own gradient."""

import pytest
import torch
from torch import Tensor

from ops.kernels.chunked import chunked_decay, decay_step
from tests.ops.case import close


def inputs(length: int, heads: int = 3, key: int = 4, value: int = 5) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, heads, length, key, dtype=torch.float64)
    v = torch.randn(2, heads, length, value, dtype=torch.float64)
    return q, k, v, -torch.rand(2, heads, length, dtype=torch.float64)


def quadratic(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    total = g.cumsum(-1)
    weights = (total[..., :, None] - total[..., None, :]).tril().exp().tril()
    return ((q @ k.mT) * weights) @ v


@pytest.mark.parametrize("length", [1, 5, 16, 63])
@pytest.mark.parametrize("chunk", [1, 16, 64])
def test_chunks_equal_the_quadratic_form(length: int, chunk: int) -> None:
    q, k, v, g = inputs(length)
    close(chunked_decay(q, k, v, g, chunk=chunk)[0], quadratic(q, k, v, g))


def test_last_state_is_that_of_the_recurrence() -> None:
    q, k, v, g = inputs(37)
    _, last = chunked_decay(q, k, v, g, chunk=16)
    state = torch.zeros_like(last)
    for t in range(37):
        _, state = decay_step(q[:, :, t], k[:, :, t], v[:, :, t], g[:, :, t], state)
    close(last, state)


def test_a_sequence_in_two_parts_equals_one_call() -> None:
    q, k, v, g = inputs(37)
    first, state = chunked_decay(*(z[:, :, :21] for z in (q, k, v, g)), chunk=8)
    second, last = chunked_decay(*(z[:, :, 21:] for z in (q, k, v, g)), state=state, chunk=8)
    whole, expected = chunked_decay(q, k, v, g)
    close(torch.cat([first, second], 2), whole)
    close(last, expected)


def test_gradients_of_all_inputs() -> None:
    parts = [z[:1, :2].clone().requires_grad_() for z in inputs(7)]
    state = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda q, k, v, g, s: chunked_decay(q, k, v, g, s, chunk=3), (*parts, state)
    )


def test_strong_decay_stays_finite_and_keeps_the_token_itself() -> None:
    q, k, v, g = (z.float() for z in inputs(63))
    y, _ = chunked_decay(q, k, v, torch.full_like(g, -50.0))
    close(y, (q * k).sum(-1, keepdim=True) * v)


def test_bf16_accumulates_in_fp32() -> None:
    q, k, v, g = (z.bfloat16() for z in inputs(63))
    y, state = chunked_decay(q, k, v, g)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    exact = quadratic(*(z.double() for z in (q, k, v, g)))
    close(y, exact.bfloat16(), scale=2)


def test_heads_may_share_queries_and_keys() -> None:
    q, k, v, g = inputs(37)
    shared, alone = (z[:, :1] for z in (q, k))
    whole, _ = chunked_decay(shared, alone, v, g, chunk=16)
    close(whole, chunked_decay(shared.expand_as(q), alone.expand_as(k), v, g)[0])


def test_a_reset_spoils_no_decay_behind_it() -> None:
    """Differences of cumulative sums would lose 1e5 * 6e-8 = 6e-3 of every later exponent."""
    q, k, v, g = (z.float() for z in inputs(60))
    g = 0.01 * g
    g[:, :, 20] = -1e5
    y, _ = chunked_decay(q, k, v, g)
    g[:, :, 20] = float("-inf")
    same, _ = chunked_decay(q, k, v, g)
    parts = [
        chunked_decay(*(z[:, :, s] for z in (q, k, v, g)))[0] for s in (slice(20), slice(20, 60))
    ]
    close(y, torch.cat(parts, 2), scale=2)
    assert torch.equal(y, same)


def test_strong_decay_over_2000_tokens_has_finite_gradients() -> None:
    parts = [z.float().requires_grad_() for z in inputs(2000, heads=1)[:3]]
    g = torch.full((2, 1, 2000), -30.0, requires_grad=True)
    y, last = chunked_decay(*parts, g)
    (y.square().sum() + last.sum()).backward()
    assert all(z.grad is not None and z.grad.isfinite().all() for z in (*parts, g))
