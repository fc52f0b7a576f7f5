"""Proxies: each against a direct computation on a tiny net; pure; never raising on what we emit."""

import math
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from einspace.candidates import Frame, frame, sample
from einspace.compile import compile_text
from einspace.load import load
from search.proxies import (
    JACOBIAN_K,
    NOTHING,
    PROXIES,
    flops,
    grad_norm,
    jacobian,
    naswot,
    params,
    snip,
    synflow,
)
from search.task import Task
from search.tasks import find


def net(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(*layers)
    for p in made.parameters():
        nn.init.normal_(p)
    return made


def batch(rows: int = 5, width: int = 3, classes: int = 2) -> tuple[Tensor, Tensor]:
    luck = torch.Generator().manual_seed(1)
    return torch.randn(rows, width, generator=luck), torch.arange(rows) % classes


class Tokens(nn.Module):
    """Embeds, mixes and reads the mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.embed, self.out = nn.Embedding(7, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(torch.tanh(self.embed(x)).mean(1))
        return y


# -- synflow ---------------------------------------------------------------------------------------


def test_synflow_of_a_linear_net_by_hand() -> None:
    model = net(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))
    first, second = (p.detach().double().abs() for p in model.parameters())
    flow = float((second @ first).sum())  # R = 1^T |W2| |W1| 1, of degree one in either matrix
    x, y = batch()
    assert synflow(model, x, y, F.cross_entropy) == pytest.approx(2 * flow)


def test_synflow_of_a_net_with_biases_by_hand() -> None:
    model = net(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    w1, b1, w2, b2 = (p.detach().double().abs() for p in model.parameters())
    through, inner = float((w2 @ w1).sum()), float((w2 @ b1).sum())
    by_hand = through + inner + (through + inner) + float(b2.sum())  # w1, b1, w2, b2
    assert synflow(model, *batch(), F.cross_entropy) == pytest.approx(by_hand)


def test_synflow_sees_neither_the_input_nor_the_signs_of_the_weights() -> None:
    model = net(nn.Linear(3, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 2))
    x, y = batch()
    score = synflow(model, x, y, F.cross_entropy)
    assert synflow(model, x * 7 - 1, y, F.cross_entropy) == score
    with torch.no_grad():
        for p in model.parameters():
            p.neg_()
    assert synflow(model, x, y, F.cross_entropy) == pytest.approx(score)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.LayerNorm(3), (1, 3)),
        (nn.RMSNorm(3), (1, 3)),
        (nn.BatchNorm1d(3), (1, 3)),
        (nn.GroupNorm(3, 3), (1, 3, 2)),
        (nn.InstanceNorm1d(3, affine=True), (1, 3, 2)),
    ],
)
def test_synflow_takes_a_norm_for_its_gain_and_bias(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    model = net(layer)
    total = sum(float(p.detach().double().abs().sum()) for p in model.parameters())
    expected = total * math.prod(shape[2:])
    assert synflow(model, torch.randn(shape), torch.zeros(1), F.mse_loss) == pytest.approx(expected)


def test_synflow_of_attention_is_that_of_the_mean_of_the_values() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.v = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            q = self.q(x)
            return F.scaled_dot_product_attention(q, q, self.v(x), is_causal=True)

    model = net(Attention())
    value = model[0].v.weight.detach().double().abs()  # type: ignore[union-attr]  # a Linear
    # Of 4 tokens of ones each sees a mean of ones: the flow is that of the values at 4 places.
    expected = 4 * float(value.sum())
    x = torch.randn(2, 4, 3)
    assert synflow(model, x, x, F.mse_loss) == pytest.approx(expected)


# -- gradients -------------------------------------------------------------------------------------


def direct(model: nn.Module, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    trained = list(model.parameters())
    found = torch.autograd.grad(F.cross_entropy(model(x), y), trained)
    return [(p.detach(), g) for p, g in zip(trained, found, strict=True)]


def test_snip_is_the_sum_of_weight_times_gradient() -> None:
    model, (x, y) = net(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)), batch()
    expected = sum(float((p * g).abs().sum()) for p, g in direct(model, x, y))
    assert snip(model, x, y, F.cross_entropy) == pytest.approx(expected)


def test_snip_of_one_weight_by_hand() -> None:
    model = net(nn.Linear(1, 1, bias=False))
    w = float(next(model.parameters()).detach())
    x, y = torch.tensor([[2.0]]), torch.tensor([[1.0]])
    assert snip(model, x, y, F.mse_loss) == pytest.approx(abs(w * 2 * (2 * w - 1) * 2))


def test_grad_norm_adds_the_norms_of_the_tensors() -> None:
    model, (x, y) = net(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), batch()
    expected = sum(float(g.pow(2).sum().sqrt()) for _, g in direct(model, x, y))
    assert grad_norm(model, x, y, F.cross_entropy) == pytest.approx(expected)


def test_synflow_goes_beyond_what_fits_into_fp32() -> None:
    class Halves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float() * 1e30

    model, (x, y) = net(nn.Linear(3, 2, bias=False), Halves(), Halves()), batch()
    expected = 1e60 * float(next(model.parameters()).detach().abs().sum())
    assert synflow(model, x, y, F.cross_entropy) == pytest.approx(expected)


def test_a_tensor_that_the_output_does_not_read_adds_nothing() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.used(x)
            return y

    model, (x, y) = Idle(), batch()
    for proxy in (snip, grad_norm, synflow):
        expected = proxy(model.used, x, y, F.cross_entropy)
        assert proxy(model, x, y, F.cross_entropy) == expected > 0


def test_what_overflows_or_is_not_a_number_has_no_score() -> None:
    model, (x, y) = net(nn.Linear(3, 2)), batch()
    for proxy in (snip, grad_norm, jacobian):
        assert proxy(model, x * float("nan"), y, lambda out, y: out.sum()) in (
            NOTHING,
            proxy(model, x, y, lambda out, y: out.sum()),  # a linear net's jacobian has no x in it
        )
    assert snip(model, x * float("inf"), y, F.cross_entropy) == NOTHING
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(float("inf"))
    assert synflow(model, x, y, F.cross_entropy) == NOTHING


def test_a_net_without_weights_has_no_gradient() -> None:
    x, y = batch(width=2)
    for proxy in (snip, grad_norm, synflow):
        assert proxy(nn.ReLU(), x, y, F.cross_entropy) == 0.0


# -- naswot and jacobian ---------------------------------------------------------------------------


def test_naswot_counts_the_units_in_which_rows_agree() -> None:
    model, (x, y) = net(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2)), batch()
    codes = [[bool(v > 0) for v in row] for row in model[0](x)]
    kernel = [[16 - sum(a != b for a, b in zip(r, s, strict=True)) for s in codes] for r in codes]
    determinant = float(torch.tensor(kernel, dtype=torch.float64).det())
    assert determinant > 0
    found = naswot(model, x, y, F.cross_entropy)
    assert found == pytest.approx(math.log(determinant))


def test_naswot_takes_the_units_of_all_layers() -> None:
    model, (x, y) = net(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh()), batch()
    first = model[0](x)
    code = torch.cat([first > 0, model[2](first.relu()) > 0], dim=1).double()
    hamming = torch.cdist(code, code, p=1)
    expected = float(torch.logdet(16 - hamming))
    assert naswot(model, x, y, F.cross_entropy) == pytest.approx(expected)


def test_naswot_does_not_exist_without_units_or_for_two_equal_rows() -> None:
    x, y = batch()
    assert naswot(net(nn.Linear(3, 2)), x, y, F.cross_entropy) == NOTHING
    x[1] = x[0]
    assert naswot(net(nn.Linear(3, 8), nn.ReLU()), x, y, F.cross_entropy) == NOTHING


def correlations(gradients: Tensor) -> float:
    """The score from the input gradients of the rows."""
    eigen = torch.linalg.eigvalsh(torch.corrcoef(gradients.double())).clamp_min(0) + JACOBIAN_K
    return float(-(eigen.log() + 1 / eigen).sum())


def test_jacobian_is_of_the_gradient_of_each_row_alone() -> None:
    model, (x, y) = net(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)), batch(rows=3)
    rows = []
    for row in x:
        leaf = row[None].clone().requires_grad_()
        rows.append(torch.autograd.grad(model(leaf).sum(), leaf)[0].flatten())
    expected = correlations(torch.stack(rows))
    assert jacobian(model, x, y, F.cross_entropy) == pytest.approx(expected, rel=1e-4)


def test_jacobian_of_tokens_is_by_their_embeddings() -> None:
    model, x = Tokens(), torch.tensor([[0, 1, 2], [3, 4, 5], [6, 0, 3]])
    leaf = model.embed(x).detach().requires_grad_()
    out = model.out(torch.tanh(leaf).mean(1))
    expected = correlations(torch.autograd.grad(out.sum(), leaf)[0].flatten(1))
    found = jacobian(model, x, torch.zeros(3).long(), F.cross_entropy)
    assert found == pytest.approx(expected, rel=1e-4)


def test_jacobian_does_not_exist_for_one_row_or_an_input_that_moves_nothing() -> None:
    x, y = batch(rows=1)
    assert jacobian(net(nn.Linear(3, 2)), x, y, F.cross_entropy) == NOTHING
    x, y = batch()
    still = net(nn.Linear(3, 2))
    nn.init.zeros_(still[0].weight)  # type: ignore[arg-type]  # a Linear
    assert jacobian(still, x, y, F.cross_entropy) == NOTHING
    tokens = torch.zeros(3, 2).long()

    class Counts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.one_hot(x, 4).float().sum(1)

    assert jacobian(Counts(), tokens, tokens, F.cross_entropy) == NOTHING


# -- size ------------------------------------------------------------------------------------------


def test_params_and_flops_are_those_that_torch_counts() -> None:
    model = net(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    model[0].bias.requires_grad_(False)  # type: ignore[union-attr]  # a convolution with one
    x, y = torch.randn(3, 1, 6, 6), torch.zeros(3).long()
    assert params(model, x, y, F.cross_entropy) == 4 * 9 + 4 * 36 * 2 + 2
    with FlopCounterMode(display=False) as counter:
        model(x[:1])
    found = flops(model, x, y, F.cross_entropy)
    assert found == counter.get_total_flops() == 2 * (36 * 9 * 4 + 4 * 36 * 2)


# -- all -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROXIES)
@pytest.mark.parametrize("tokens", [False, True], ids=["numbers", "tokens"])
def test_a_proxy_leaves_model_input_and_random_state_as_they_were(name: str, tokens: bool) -> None:
    model: nn.Module = net(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
    x, y = batch()
    if tokens:
        model, x = Tokens(), torch.arange(15).reshape(5, 3) % 7
    model.eval()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    given, luck = x.clone(), torch.random.get_rng_state()
    score = PROXIES[name](model, x, y, F.cross_entropy)
    assert torch.equal(torch.random.get_rng_state(), luck)
    assert torch.equal(x, given)
    assert not x.requires_grad
    assert not model.training
    assert all(p.requires_grad and bool((p.grad == 1).all()) for p in model.parameters())
    after = model.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    torch.rand(3)
    assert PROXIES[name](model, x, y, F.cross_entropy) == score


def rows_of(task: Task) -> tuple[Tensor, Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """Four rows of the kind that the task has, from its types alone."""
    (kind,) = task.interface.inputs.values()
    luck = torch.Generator().manual_seed(0)
    shape = (4, *kind.shape)
    if kind.kind == "tokens":
        assert kind.vocab is not None
        x = torch.randint(1, kind.vocab, shape, generator=luck)
    else:
        x = torch.randn(shape, generator=luck)
    return x, torch.empty(0), lambda out, y: out.float().pow(2).mean()


SPACES = {"vision": ("mnist5k", 18), "lm": ("shakespeare", 10), "attention": ("mqar", 22)}


@pytest.mark.parametrize("name", SPACES)
def test_proxies_of_drawn_architectures_are_finite_or_minus_infinity(name: str) -> None:
    task_name, count = SPACES[name]
    task = find(task_name)
    space: Frame = frame(name, task.interface)
    x, y, loss = rows_of(task)
    told = dict.fromkeys(PROXIES, 0)
    for seed in range(count):
        found = compile_text(sample(space, random.Random(seed)).text, task.interface)
        torch.manual_seed(seed)
        model = load(found.source)()
        for proxy, score in PROXIES.items():
            value = score(model, x, y, loss)
            assert math.isfinite(value) or value == NOTHING, (proxy, found.text)
            told[proxy] += math.isfinite(value)
        assert params(model, x, y, loss) == found.params
    assert all(told[p] == count for p in ("snip", "grad_norm", "params", "flops"))
    assert told["synflow"] > count / 2  # cubes of cubes overflow: lightning among gated MLPs
    assert told["jacobian"] > 0
