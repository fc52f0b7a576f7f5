"""RWKV-7: diagonal decay and the delta rule as limits, values of the first layer, ranks, starts."""

import pytest
import torch
from torch.nn import functional as F

from einspace.compile import compile_text
from einspace.interface import Interface
from grammar.errors import SpaceError
from ops.kernels.delta import chunked_delta
from ops.kernels.diagonal import chunked_diagonal
from ops.kernels.dplr import chunked_dplr
from ops.kernels.mixing import heads_first, shifted
from ops.linear.rwkv7 import OP, RWKV7
from ops.spec import seq, tokens
from tests.einspace.oracle import built, interpret, random_input
from tests.ops.case import Case, close

OP_NAME = "rwkv7"
CASES = [
    Case(seq(63, 12, may_pad=True), {"head_dim": 4, "rank": 3}, inputs=(seq(63, 12),)),
    Case(seq(21, 8, may_pad=True), {"head_dim": 8}),
    Case(seq(1, 6), {"head_dim": 2, "rank": 1}),
]
RANKS = (3, 4, 5, 2)
LM = Interface({"tokens": tokens(16, 9)}, seq(16, 9), causal=True)
MODEL = (
    "embed(dim=8) >> residual(rms_norm >> rwkv7(head_dim=4) as lead)"
    " >> residual(rms_norm >> rwkv7(head_dim={k}, first=@lead.{what})) * 2 >> head"
)


def layer(length: int = 40) -> tuple[RWKV7, torch.Tensor]:
    """Low-rank parts that say something, unlike at the start."""
    torch.manual_seed(0)
    made = RWKV7(12, 4, RANKS).double()
    for name, part in made.named_parameters():
        if "down" in name or "bonus" in name:
            torch.nn.init.normal_(part)
    return made, torch.randn(2, length, 12, dtype=torch.float64)


def test_without_removal_it_is_linear_attention_with_decay_by_channel() -> None:
    op, x = layer()
    with torch.no_grad():
        op.rate.up.bias.fill_(-1e4)
        op.kept.zero_()
    r, k, v, _, b, g, gate, _ = op.parts(x, shifted(x), None)
    assert not b.any()
    close(op(x)[0], op.merge(chunked_diagonal(r, k, v, g)[0], r, k, v, gate))


def test_full_removal_without_decay_is_the_delta_rule() -> None:
    op, x = layer()
    with torch.no_grad():
        op.rate.up.bias.fill_(1e4)
        op.decay.up.bias.fill_(-1e4)
        op.removed.fill_(1.0)
    r, k, v, _, b, g, *_ = op.parts(x, shifted(x), None)
    close(b, F.normalize(k, dim=-1))
    one, none = torch.ones(2, 3, 40, dtype=x.dtype), torch.zeros(2, 3, 40, dtype=x.dtype)
    o, last = chunked_dplr(r, b, v, -b, b, g)
    close((o, last), chunked_delta(r, b, v, one, none))


@pytest.mark.parametrize("chunk", [1, 16, 64, 90])
def test_chunks_of_any_size_are_the_recurrence(chunk: int) -> None:
    op, x = layer(90)
    r, k, v, a, b, g, gate, _ = op.parts(x, shifted(x), None)
    state, rows = op.init_state(2, 90), []
    for t in range(90):
        y, state = op.step(x[:, t : t + 1], state)
        rows.append(y)
    o, last = chunked_dplr(r, k, v, a, b, g, chunk=chunk)
    close(op.merge(o, r, k, v, gate), torch.cat(rows, 1))
    close(last, state[0])


def test_the_strongest_decay_is_e_to_the_minus_e_to_the_minus_a_half() -> None:
    op, x = layer()
    torch.nn.init.constant_(op.decay.up.bias, 1e4)
    g = op.parts(x, shifted(x), None)[5]
    close(g.exp(), torch.full_like(g, 0.5452392118926051))


def test_it_is_its_equations_token_by_token() -> None:
    op, x = layer(9)
    assert op.blend is not None
    first = torch.randn_like(x)
    past, states = torch.zeros(2, 12, dtype=x.dtype), torch.zeros(2, 3, 4, 4, dtype=x.dtype)
    for t in range(9):
        r, k, v, g, w, a = (x[:, t] + (past - x[:, t]) * mu for mu in op.mix)
        r, k, value = op.receptance(r), op.key(k), op.value(v)
        value = torch.lerp(value, first[:, t], torch.sigmoid(op.blend.up(op.blend.down(v))))
        w = -F.softplus(-op.decay.up(torch.tanh(op.decay.down(w)))) - 0.5
        w, a = torch.exp(-torch.exp(w)), torch.sigmoid(op.rate.up(op.rate.down(a)))
        kappa = F.normalize((k * op.removed).view(2, 3, 4), dim=-1)
        k = k * (1 + (a - 1) * op.kept)
        r, k, value, w, a = (z.view(2, 3, 4) for z in (r, k, value, w, a))
        move = torch.diag_embed(w) - torch.einsum("bhi,bhj->bhij", kappa * a, kappa)
        states = move @ states + torch.einsum("bhi,bhj->bhij", k, value)
        o = torch.einsum("bhij,bhi->bhj", states, r).flatten(1)
        own = (op.bonus.view(3, 4) * r * k).sum(-1, keepdim=True) * value
        o = F.group_norm(o, 3, op.scale, op.shift, 4e-5) + own.flatten(1)
        close(op(x, first)[0][:, t], op.out(o * op.gate.up(torch.sigmoid(op.gate.down(g)))))
        past = x[:, t]


def test_the_state_stays_bounded_over_2000_tokens() -> None:
    op, x = layer(2000)
    r, k, v, a, b, g, *_ = op.parts(x, shifted(x), None)
    norms = [
        chunked_dplr(*(z[:, :, :n] for z in (r, k, v, a, b, g)))[1].norm() for n in (500, 2000)
    ]
    assert norms[1] < 2 * norms[0]


def test_a_token_adds_itself_by_the_bonus() -> None:
    op, x = layer()
    r, k, v, a, b, g, gate, _ = op.parts(x, shifted(x), None)
    o = chunked_dplr(r, k, v, a, b, g)[0]
    whole = op.merge(o, r, k, v, gate)
    rho = heads_first(op.bonus[None, None], 3)
    own = ((rho * r * k).sum(-1, keepdim=True) * v).transpose(1, 2).flatten(2)
    with torch.no_grad():
        op.bonus.zero_()
    close(whole - op.merge(o, r, k, v, gate), op.out(own * gate))


def test_values_move_towards_those_of_the_first_layer() -> None:
    op, x = layer()
    assert op.blend is not None
    first = torch.randn_like(x)
    own = op(x, first)[1]
    close(own, op.value(x + (shifted(x) - x) * op.mix[2]))
    close(op(x, own)[0], op(x)[0])  # its own v: as the first layer
    for bias, want in ((-1e4, own), (1e4, first)):
        torch.nn.init.zeros_(op.blend.down.weight)
        torch.nn.init.constant_(op.blend.up.bias, bias)
        close(op.parts(x, shifted(x), first)[2], heads_first(want, 3))


def test_later_layers_read_the_values_of_the_first_through_the_language() -> None:
    compiled = compile_text(MODEL.format(k=4, what="v"), LM)
    model, x = built(compiled), random_input(tokens(16, 9))
    whole = model(x)
    close(whole, interpret(compiled, model, [x]))
    assert sum("blend.up.bias" in name for name, _ in model.named_parameters()) == 2
    state, rows = model.init_state(len(x), 16), []
    with torch.no_grad():
        for t in range(16):
            y, state = model.step(x[:, t : t + 1], state)
            rows.append(y)
    close(torch.cat(rows, 1), whole.detach())


def test_the_first_layer_s_values_have_its_width() -> None:
    short = "embed(dim=8) >> cat(rwkv7(head_dim=4) as lead, id, axis=2) >> "
    with pytest.raises(SpaceError, match="first is"):
        compile_text(short + "rwkv7(head_dim=4, first=@lead.v) >> head", LM)


def test_gradients_of_the_layer() -> None:
    torch.manual_seed(0)
    op = RWKV7(4, 2, (2, 2, 2, 2)).double()
    for part in op.parameters():
        torch.nn.init.normal_(part, std=0.5)
    x, first = torch.randn(2, 1, 5, 4, dtype=torch.float64).unbind(0)
    assert torch.autograd.gradcheck(op, (x.requires_grad_(), first.requires_grad_()))


@pytest.mark.parametrize(
    ("dim", "ranks"),
    [(768, (64, 64, 128, 32)), (2048, (96, 96, 256, 64)), (4096, (128, 128, 480, 96))],
)
def test_ranks_of_published_widths(dim: int, ranks: tuple[int, ...]) -> None:
    given = OP.init(seq(9, dim), head_dim=64, rank=None, given=("first",))
    assert given["ranks"] == ranks
    assert OP.init(seq(9, dim), head_dim=64, rank=None, given=())["ranks"] == (*ranks[:3], None)


def test_starts_are_the_published_ones() -> None:
    op = RWKV7(64, 64, RANKS)
    assert op.eps == pytest.approx(64e-5)
    close(op.decay.up.bias[[0, -1]], torch.tensor([-6.5, -1.5]))
    close(op.mix[0, :2], torch.tensor([1.0, 1 - (1 / 64) ** 0.2]))
    assert op.blend is not None
    close(op.blend(torch.randn(3, 64)), torch.ones(3, 64))
    assert not op.gate(torch.zeros(1, 64)).eq(0).all()
