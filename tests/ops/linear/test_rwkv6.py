"""RWKV-6: linear attention and GLA as limits, chunks, the shift, what the state reads, starts."""

import pytest
import torch
from torch.nn import functional as F

from ops.kernels.diagonal import chunked_diagonal
from ops.kernels.mixing import shifted
from ops.linear.rwkv6 import OP, RWKV6
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "rwkv6"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "rank": 5, "decay_rank": 7}),
    Case(seq(21, 8, may_pad=True), {"heads": 2, "expand_k": 1.5}),
    Case(seq(1, 6), {"heads": 1, "expand_k": 1.0}),
]


def layer(length: int = 40) -> tuple[RWKV6, torch.Tensor]:
    torch.manual_seed(0)
    made = RWKV6(12, 3, 2, 5, 7).double()
    for part in (made.low.weight, made.decay.down.weight):  # zero at the start
        torch.nn.init.normal_(part)
    return made, torch.randn(2, length, 12, dtype=torch.float64)


def test_without_decay_and_with_bonus_1_it_is_unnormalised_linear_attention() -> None:
    op, x = layer()
    with torch.no_grad():
        op.decay.up.weight.zero_()
        op.decay.up.bias.fill_(-1e4)
        op.bonus.fill_(1.0)
    r, k, v, rate, gate = op.parts(x, shifted(x))
    assert not rate.any()
    close(op(x), op.merge((r @ k.mT).tril() @ v, gate))


def test_with_a_constant_decay_and_its_inverse_as_bonus_it_is_gla() -> None:
    op, x = layer()
    w = torch.rand(6, dtype=torch.float64) * 0.8 + 0.1
    with torch.no_grad():
        op.decay.up.weight.zero_()
        op.decay.up.bias.copy_((-w.log()).log())
        op.bonus.copy_(1 / w.view(3, 2))
        op.receptance.weight.mul_(w[:, None])
    r, k, v, rate, gate = op.parts(x, shifted(x))
    close(op(x), op.merge(chunked_diagonal(r / w.view(3, 1, 2), k, v, rate)[0], gate))


@pytest.mark.parametrize("chunk", [1, 16, 64, 90])
def test_chunks_of_any_size_are_the_recurrence(chunk: int) -> None:
    op, x = layer(90)
    r, k, v, rate, gate = op.parts(x, shifted(x))
    state, rows = op.init_state(2, 90), []
    for t in range(90):
        y, state = op.step(x[:, t : t + 1], state)
        rows.append(y)
    o, last = chunked_diagonal(r, k, v, rate, bonus=op.bonus, chunk=chunk)
    close(op.merge(o, gate), torch.cat(rows, 1))
    close(last, state[0])


def test_a_token_reads_the_state_before_it_and_itself_through_the_bonus() -> None:
    op, x = layer(1)
    r, k, v, _, gate = op.parts(x, torch.zeros_like(x))
    own = (r * op.bonus[:, None] * k).sum(-1, keepdim=True) * v
    close(op(x), op.merge(own, gate))
    with torch.no_grad():
        op.bonus.zero_()
    assert not op(x).any()  # the group norm of nothing is its shift, 0


def test_the_shift_is_a_share_that_the_token_moves() -> None:
    op, x = layer()
    past = shifted(x)
    assert not past[:, 0].any()
    close(past[:, 1:], x[:, :-1])
    with torch.no_grad():
        op.high.zero_()
    for mu, made in zip(op.mix[1:], op.mixed(x, past), strict=True):
        close(made, x * (1 - mu) + past * mu)


def test_it_is_its_equations_token_by_token() -> None:
    op, x = layer(9)
    past, states = torch.zeros(2, 12, dtype=x.dtype), torch.zeros(2, 3, 2, 4, dtype=x.dtype)
    low = op.low.weight.unflatten(0, (5, 5))
    for t in range(9):
        m = past + (x[:, t] - past) * (1 - op.mix[0])
        shares = [op.mix[1 + z] + torch.tanh(m @ low[z].T) @ op.high[z] for z in range(5)]
        r, k, v, g, w = (x[:, t] + (past - x[:, t]) * s for s in shares)
        w = torch.exp(-torch.exp(op.decay.up(torch.tanh(op.decay.down(w))))).view(2, 3, 2, 1)
        r, k = (p(z).view(2, 3, 2, 1) for p, z in ((op.receptance, r), (op.key, k)))
        new = k * op.value(v).view(2, 3, 1, 4)
        o = ((states + op.bonus[..., None] * new) * r).sum(2).flatten(1)
        states = w * states + new
        y = F.group_norm(o, 3, op.scale, op.shift, 6.4e-4) * F.silu(op.gate(g))
        close(op(x)[:, t], op.out(y))
        past = x[:, t]


def test_strong_decay_is_finite_with_finite_gradients() -> None:
    torch.manual_seed(0)
    op = RWKV6(12, 3, 2, 5, 7)
    with torch.no_grad():
        op.decay.up.bias[::2] = 20.0  # log w = -4.9e8
    op(torch.randn(2, 300, 12)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in op.parameters())


def test_gradients_of_the_layer() -> None:
    torch.manual_seed(0)
    op = RWKV6(4, 2, 1, 2, 2).double()
    for part in op.parameters():
        torch.nn.init.normal_(part, std=0.5)
    x = torch.randn(1, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(op, (x,))


def test_starts_and_widths_are_the_published_ones() -> None:
    op = RWKV6(**OP.init(seq(9, 64), heads=1, expand_k=1.0, rank=32, decay_rank=64))
    close(op.mix[1, :2], torch.tensor([1.0, 1 - (1 / 64) ** 0.5]))
    close(op.mix[0, 32], torch.tensor(0.5))
    close(op.decay.up.bias[[0, -1]], torch.tensor([-6.0, -1.0]))
    close(op.bonus[0, :3], torch.tensor([0.0, 0.1, -0.1]))
    close(F.sigmoid(op.bonus[0, 3]), torch.tensor(0.5))
    assert (OP.params["rank"].default, OP.params["decay_rank"].default) == (32, 64)
