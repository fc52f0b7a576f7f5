"""Mixture of experts: one expert, equal experts, the losses at their ends, drops and the router."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from einspace.compile import compile_text
from einspace.interface import Interface
from einspace.load import load
from ops.mlp.moe import OP, MoE
from ops.mlp.swiglu import SwiGLU
from ops.spec import Mismatch, seq, vec
from tests.ops.case import Case, bench, close

OP_NAME = "moe"
# Blocks that are not full are counted by the counter: see the test of the blocks below.
CASES = [
    Case(seq(9, 6, may_pad=True), {"experts": 4}, flops="analytic"),
    Case(
        seq(7, 6),
        {"experts": 3, "active": 1, "norm": False, "shared": 1, "noise": "gauss"},
        flops="analytic",
    ),
    Case(
        vec(5),
        {"experts": 5, "active": 3, "noise": "jitter", "rate": 1e-3, "mult": 1.0},
        flops="analytic",
    ),
    Case(seq(9, 6, may_pad=True), {"experts": 4, "capacity": 1.0}, flops="analytic"),
]
ALWAYS = {"dim": 6, "hidden": 8}


def tokens() -> Tensor:
    return torch.randn(2, 20, 6, dtype=torch.float64)


def dense(layer: MoE, index: int) -> SwiGLU:
    peer = SwiGLU(6, 8).double()
    with torch.no_grad():
        peer.gate_up.weight.copy_(layer.gate_up[index].T)
        peer.down.weight.copy_(layer.down[index].T)
    return peer


@pytest.mark.parametrize("taken", ["even", "one", "none", "some"])
def test_every_slot_has_a_row_in_a_block_of_its_expert(taken: str) -> None:
    layer = MoE(**ALWAYS, experts=5, active=2)
    chosen = torch.stack([torch.randperm(5)[:2] for _ in range(23)])
    chosen = torch.zeros_like(chosen) if taken == "one" else chosen
    kept = torch.rand(23, 2) < {"none": 0.0, "some": 0.6}.get(taken, 1.0)
    row, tokens, owner = layer.layout(chosen, kept)
    blocks, size = tokens.shape
    assert (blocks, size) == (46 // 3 + 5, 3)
    used = row[kept.flatten()]
    assert used.unique().numel() == used.numel()
    assert (row[~kept.flatten()] == blocks * size).all()
    assert torch.equal(
        tokens.flatten()[used], torch.arange(23).repeat_interleave(2)[kept.flatten()]
    )
    assert torch.equal(owner[used // size], chosen[kept])
    assert (tokens < 23).sum() == kept.sum()


def test_it_multiplies_a_quarter_more_than_the_tokens_need_at_most() -> None:
    layer, x = MoE(**ALWAYS, experts=4, active=2), torch.randn(2, 96, 6)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(x)
    slots, router, one = 2 * 96 * 2, 2 * 2 * 96 * 6 * 4, 6 * 6 * 8
    assert counter.get_total_flops() == router + (slots // 24 + 4) * 24 * one
    assert counter.get_total_flops() <= router + 1.25 * slots * one


def test_one_expert_is_the_dense_mlp() -> None:
    layer, x = MoE(**ALWAYS, experts=1, active=1, norm=False).double(), tokens()
    close(layer(x)[0], dense(layer, 0)(x))


def test_all_experts_with_equal_logits_are_their_mean() -> None:
    layer, x = MoE(**ALWAYS, experts=3, active=3).double(), tokens()
    with torch.no_grad():
        layer.router.zero_()
    close(layer(x)[0], torch.stack([dense(layer, e)(x) for e in range(3)]).mean(0))


def test_it_is_the_weighted_sum_over_the_chosen() -> None:
    layer, x = MoE(**ALWAYS, experts=4, active=2, shared=1).double(), tokens()
    outs = torch.stack([dense(layer, e)(x) for e in range(5)], -2)
    p = (x @ layer.router.T).softmax(-1)
    kept = torch.where(p >= p.topk(2).values[..., 1:], p, 0.0)
    weights = kept / kept.sum(-1, keepdim=True)
    close(layer(x)[0], (weights[..., None] * outs[..., :4, :]).sum(-2) + outs[..., 4, :])


def test_normalised_weights_are_a_softmax_over_the_chosen_logits() -> None:
    layer, x = MoE(**ALWAYS, experts=4, active=2).double(), tokens()
    logits, _, chosen, w = layer.route(x.flatten(0, 1))
    close(w, logits.gather(1, chosen).softmax(-1))


def test_balance_is_one_when_even_and_the_number_of_experts_on_collapse() -> None:
    layer = MoE(**ALWAYS, experts=6, active=1, norm=False, aux=1.0, z=0.0).double()
    with torch.no_grad():
        layer.router.copy_(1e3 * torch.eye(6))
    even = torch.eye(6, dtype=torch.float64)[None]
    close(layer(even)[1], torch.tensor(1.0, dtype=torch.float64))
    one = even[:, :1].expand(1, 9, 6)
    close(layer(one)[1], torch.tensor(6.0, dtype=torch.float64))


def test_uniform_probabilities_have_balance_one_whatever_is_chosen() -> None:
    layer = MoE(**ALWAYS, experts=4, active=2, aux=1.0, z=0.0).double()
    with torch.no_grad():
        layer.router.zero_()
    close(layer(tokens())[1], torch.tensor(1.0, dtype=torch.float64))


def test_the_z_loss_is_the_mean_square_of_the_log_partition() -> None:
    layer, x = MoE(**ALWAYS, experts=4, active=2, aux=0.0, z=0.5).double(), tokens()
    expected = 0.5 * (x @ layer.router.T).logsumexp(-1).square().mean()
    close(layer(x)[1], expected)


def test_padding_takes_no_part_in_the_losses() -> None:
    layer, x = MoE(**ALWAYS, experts=4, active=2).double(), tokens()
    mask = (torch.arange(20) < 13).expand(2, 20)
    close(layer(x, mask)[1], layer(x[:, :13])[1])
    close(layer(x, mask)[2], layer(x[:, :13])[2])


def test_permuting_experts_with_their_router_rows_changes_nothing() -> None:
    layer, x = MoE(**ALWAYS, experts=4, active=2).double(), tokens()
    before = layer(x)[0]
    with torch.no_grad():
        for part in (layer.router, layer.gate_up, layer.down):
            part.copy_(part.flip(0).clone())
    close(layer(x)[0], before)


def test_endless_capacity_drops_nothing_and_a_small_one_keeps_the_first() -> None:
    layer, x = MoE(**ALWAYS, experts=4, active=2).double(), tokens()
    wide = MoE(**ALWAYS, experts=4, active=2, capacity=1e4).double()
    narrow = MoE(**ALWAYS, experts=4, active=2, capacity=0.1).double()
    for other in (wide, narrow):
        other.load_state_dict(layer.state_dict())
    close(wide(x)[0], layer(x)[0])
    one = x[:1, :1].expand(1, 20, 6)
    y = narrow(one)[0]
    close(y[:, :1], layer(one)[0][:, :1])
    assert not y[:, 1:].any()


def test_the_router_learns_through_the_weights() -> None:
    layer, x = MoE(**ALWAYS, experts=4, active=1, norm=False, aux=0.0, z=0.0).double(), tokens()
    layer(x)[0].square().sum().backward()
    assert layer.router.grad is not None
    assert layer.router.grad.any()


def test_normalised_weights_of_one_expert_are_refused() -> None:
    full = bench("moe", Case(seq(9, 6))).params
    with pytest.raises(Mismatch, match="weight 1 whatever") as found:
        OP.shape(seq(9, 6), **(full | {"active": 1}))
    assert "norm=false" in found.value.hint
    with pytest.raises(Mismatch, match="active=9 of experts=8"):
        OP.shape(seq(9, 6), **(full | {"active": 9}))


def test_the_bias_moves_towards_balance_in_update_only_and_leaves_the_weights_alone() -> None:
    layer, x = MoE(**ALWAYS, experts=4, active=2, rate=0.25).double(), tokens()
    _, _, (load,) = layer(x)
    assert not layer.balance.any()
    layer.update((load,))
    close(layer.balance, 0.25 * torch.sign(0.25 - load))
    _, p, chosen, w = layer.route(x.flatten(0, 1))
    kept = p.gather(1, chosen)
    close(w, kept / kept.sum(-1, keepdim=True))


def test_a_large_bias_decides_the_choice() -> None:
    layer, x = MoE(**ALWAYS, experts=4, active=1, norm=False).double(), tokens()
    layer.balance[2] = 9.0
    close(layer(x)[2][0], torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64))


def test_with_capacity_tokens_compete_so_it_is_not_causal() -> None:
    full = bench("moe", Case(seq(9, 6))).params
    assert OP.is_causal(seq(9, 6), **full)
    assert not OP.is_causal(seq(9, 6), **(full | {"capacity": 1.25}))


def test_losses_and_loads_pass_through_the_emitted_model() -> None:
    text = "(residual(rms_norm >> moe(experts=4, rate=1e-3, mult=1))) * 3"
    compiled = compile_text(text, Interface({"x": seq(9, 6)}))
    model = load(compiled.source)().train()
    assert "class Block" in compiled.source
    x = torch.randn(2, 9, 6)
    y, aux, stats = model.forward_aux(x)
    moes = [m for m in model.modules() if type(m).__name__ == "MoE"]
    assert len(moes) == 3
    h, total = x, torch.zeros(())
    for block in model.blocks:
        add, more, _ = block.moe(block.rms_norm(h))
        h, total = h + add, total + more
    close(y, h)
    close(aux, total)
    model.update(stats)
    assert all(m.balance.any() for m in moes)
