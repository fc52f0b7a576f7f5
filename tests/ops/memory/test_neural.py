"""Neural memory: the recurrence by autograd, delta rule, forgetting, chunks, decoding."""

import pytest
import torch
from torch import Tensor

from ops.kernels.delta import chunked_delta
from ops.kernels.surprise import memory_gates, memory_read, memory_scan, range_products
from ops.memory.neural import NeuralMemory
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "neural_memory"
CASES = [
    Case(seq(21, 8, may_pad=True), {"heads": 2, "chunk": 5}),
    Case(seq(13, 6), {"depth": 1, "chunk": 4, "conv": 1, "rate": 0.5}),
    Case(seq(7, 6), {"heads": 3, "chunk": 1, "act": "silu", "mult": 3}),
    Case(seq(1, 4)),
]
B, H, T, K = 2, 2, 13, 4
Pair = tuple[list[Tensor], list[Tensor]]


def problem(depth: int) -> tuple[list[Tensor], list[Tensor], Pair]:
    """q, k, v; alpha, eta, theta; weights and momenta."""
    torch.manual_seed(depth)
    q, k, v = torch.randn(3, B, H, T, K, dtype=torch.float64)
    k = torch.nn.functional.normalize(k, dim=-1)
    alpha, eta, theta = torch.rand(3, B, H, T, dtype=torch.float64)
    pairs = [(K, K)] if depth == 1 else [(K, 6), (6, K)]
    weights = [0.3 * torch.randn(B, H, a, b, dtype=torch.float64) for a, b in pairs]
    momenta = [0.1 * torch.randn(B, H, a, b, dtype=torch.float64) for a, b in pairs]
    return [q, k, v], [alpha, eta, 0.2 * theta], (weights, momenta)


def recurrence(
    qkv: list[Tensor], gates: list[Tensor], state: Pair, chunk: int, act: str
) -> tuple[Tensor, Pair]:
    """Equations 10-15 token by token; the inner gradient is that of autograd."""
    (q, k, v), (alpha, eta, theta) = qkv, gates
    weights, momenta = state
    rows = []
    for t in range(q.shape[2]):
        if t % chunk == 0:
            first = [w.detach().requires_grad_() for w in weights]
        now = slice(t, t + 1)
        loss = (memory_read(k[:, :, now], first, act) - v[:, :, now]).square().sum()
        grads = torch.autograd.grad(loss, first)
        at = [g[:, :, t, None, None] for g in (alpha, eta, theta)]
        momenta = [at[1] * s - at[2] * g for s, g in zip(momenta, grads, strict=True)]
        weights = [(1 - at[0]) * w + s for w, s in zip(weights, momenta, strict=True)]
        rows.append(memory_read(q[:, :, now], weights, act))
    return torch.cat(rows, 2), (weights, momenta)


@pytest.mark.parametrize("chunk", [1, 4, 5, 13, 64])
@pytest.mark.parametrize(("depth", "act"), [(1, "gelu"), (2, "gelu"), (2, "silu")])
def test_chunks_are_the_recurrence_with_autograd_s_gradient(
    chunk: int, depth: int, act: str
) -> None:
    qkv, gates, state = problem(depth)
    y, after = memory_scan(*qkv, tuple(gates), state, chunk, act)  # type: ignore[arg-type]  # three
    expected, end = recurrence(qkv, gates, state, chunk, act)
    close(y, expected)
    for ours, theirs in zip(after, end, strict=True):
        close(tuple(ours), tuple(theirs))


def test_chunks_of_several_tokens_are_another_function() -> None:
    qkv, gates, state = problem(2)
    one, four = (recurrence(qkv, gates, state, c, "gelu")[0] for c in (1, 4))
    assert (one - four).abs().max() > 1e-3


def scanned(
    qkv: list[Tensor], gates: list[Tensor], state: Pair, chunk: int = 1
) -> tuple[Tensor, Pair]:
    return memory_scan(*qkv, tuple(gates), state, chunk, "gelu")  # type: ignore[arg-type]  # three


@pytest.mark.parametrize("depth", [1, 2])
def test_shut_gates_read_the_first_memory(depth: int) -> None:
    qkv, gates, (weights, momenta) = problem(depth)
    shut = [torch.zeros_like(g) for g in gates]
    none = [torch.zeros_like(s) for s in momenta]
    y, _ = scanned(qkv, shut, (weights, none), 4)
    close(y, memory_read(qkv[0], weights, "gelu"))


def delta_rule(qkv: list[Tensor], b: Tensor, w: Tensor, alpha: Tensor) -> Tensor:
    q, k, v = qkv
    rows = []
    for t in range(T):
        now = slice(t, t + 1)
        error = v[:, :, now] - k[:, :, now] @ w
        w = (1 - alpha[..., t, None, None]) * w
        w = w + b[..., t, None, None] * k[:, :, now].mT @ error
        rows.append(q[:, :, now] @ w)
    return torch.cat(rows, 2)


def test_linear_without_momentum_is_the_delta_rule_with_decay_after_the_error() -> None:
    qkv, (alpha, eta, theta), (weights, momenta) = problem(1)
    for a in (torch.zeros_like(alpha), alpha):
        y, _ = scanned(qkv, [a, torch.zeros_like(eta), theta], (weights, momenta))
        close(y, delta_rule(qkv, 2 * theta, weights[0], a))


def test_the_gated_delta_rule_decays_before_the_error_so_it_differs_where_one_forgets() -> None:
    (q, k, v), (alpha, eta, theta), (weights, momenta) = problem(1)
    none = torch.zeros_like(eta)
    for a in (none, 0.5 * alpha):
        y, _ = scanned([q, k, v], [a, none, theta], (weights, momenta))
        other, _ = chunked_delta(q, k, v, 2 * theta, (1 - a).log(), weights[0])
        assert torch.allclose(y, other) == (not a.any())


def test_under_autocast_the_memory_is_fp32() -> None:
    torch.manual_seed(0)
    layer, x = NeuralMemory(8, heads=2, chunk=4), torch.randn(2, 30, 8)
    with torch.autocast("cpu", torch.bfloat16):
        parts = [*layer.parts(layer.filtered(x)), *layer.rates(x), *layer.fresh(2)[0]]
        y = layer(x)
        state = layer.init_state(2, 30)
        for t in range(3):
            _, state = layer.step(x[:, t : t + 1], state)
    assert {z.dtype for z in parts} == {torch.float32}
    assert {z.dtype for z in state[:6]} == {torch.float32}
    torch.testing.assert_close(y.float(), layer(x), rtol=0.1, atol=0.05)


def test_forgetting_everything_leaves_the_momentum() -> None:
    qkv, (alpha, eta, theta), state = problem(2)
    _, (weights, momenta) = scanned(qkv, [torch.ones_like(alpha), eta, theta], state, 5)
    close(tuple(weights), tuple(momenta))
    assert all(w.isfinite().all() for w in weights)


def test_two_calls_split_at_a_chunk_are_one() -> None:
    qkv, gates, state = problem(2)
    whole, end = scanned(qkv, gates, state, 4)
    cut = [[z[:, :, :8] for z in qkv], [g[:, :, :8] for g in gates]]
    rest = [[z[:, :, 8:] for z in qkv], [g[:, :, 8:] for g in gates]]
    a, middle = scanned(cut[0], cut[1], state, 4)
    b, after = scanned(rest[0], rest[1], middle, 4)
    close(torch.cat([a, b], 2), whole)
    close(tuple(after[0]), tuple(end[0]))


def test_range_products_are_exact_with_factors_of_zero_and_so_are_their_gradients() -> None:
    x = torch.rand(2, 7, dtype=torch.float64)
    x[0, 3] = x[1, 0] = x[1, 5] = 0.0
    found = range_products(x)
    for i in range(7):
        for j in range(7):
            close(found[:, i, j], x[:, j + 1 : i + 1].prod(-1) if i >= j else 0 * x[:, 0])
    assert torch.autograd.gradcheck(range_products, x.requires_grad_())


def test_the_gate_table_is_its_definition() -> None:
    alpha, eta = torch.rand(2, 5, dtype=torch.float64)
    table, run = memory_gates(alpha, eta)
    beta, f, p, e, m = table[:, 0], table[:, 1], table[:, 2:], run[-1, 1:], run[-1, 0]
    kept = 1 - alpha
    for i in range(5):
        close(beta[i], kept[: i + 1].prod())
        f_i = sum(kept[x + 1 : i + 1].prod() * eta[: x + 1].prod() for x in range(i + 1))
        close(f[i], torch.as_tensor(f_i))
        for j in range(5):
            terms = [
                kept[x + 1 : i + 1].prod() * eta[j + 1 : x + 1].prod() for x in range(j, i + 1)
            ]
            close(p[i, j], torch.stack(terms).sum() if terms else torch.zeros_like(m))
    close(e, torch.stack([eta[j + 1 :].prod() for j in range(5)]))
    close(m, eta.prod())


def test_gradients_flow_through_the_inner_gradient() -> None:
    (q, k, v), gates, (weights, momenta) = problem(2)
    short = [z[:1, :1, :5].clone().requires_grad_() for z in (q, k, v)]
    small = [g[:1, :1, :5].clone().requires_grad_() for g in gates]
    first = [w[:1, :1].clone().requires_grad_() for w in weights]
    none = [s[:1, :1] for s in momenta]

    def run(*xs: Tensor) -> Tensor:
        return memory_scan(*xs[:3], xs[3:6], (list(xs[6:]), none), 3, "gelu")[0]  # type: ignore[arg-type, call-arg]  # by place

    assert torch.autograd.gradcheck(run, (*short, *small, *first))


def test_a_pattern_that_repeats_is_remembered() -> None:
    layer = NeuralMemory(8, depth=1, chunk=4, conv=1)
    with torch.no_grad():
        x = torch.randn(1, 4, 8).repeat(1, 40, 1)
        _, k, v = layer.parts(layer.filtered(x))
        alpha, eta, theta = layer.rates(x)
        gates = (0 * alpha, 0 * eta, 0 * theta + 0.1)
        y, _ = memory_scan(k, k, v, gates, layer.fresh(1), 4, "gelu")
    errors = (y - v).square().sum((0, 1, 3)).unflatten(0, (40, 4)).sum(1)
    assert errors[-1] < 0.05 * errors[0]


def test_the_state_does_not_grow() -> None:
    layer = NeuralMemory(8, heads=2)
    short, long = layer.init_state(1, 10), layer.init_state(1, 10_000)
    assert [t.shape for t in short] == [t.shape for t in long]
