"""gMLP: at its start an MLP, later a map over tokens; above the diagonal W is not used."""

import torch
from torch.nn import functional as F

from ops.linear.gmlp import OP, GatingMLP
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "gmlp"
CASES = [
    Case(seq(63, 8, may_pad=True), {"causal": True, "mult": 2}),
    Case(seq(21, 5, may_pad=True), {"mult": 3}),
    Case(seq(9, 6), {"causal": True}),
    Case(seq(1, 4), {"causal": True, "mult": 1}),
]


def layer(causal: bool) -> tuple[GatingMLP, torch.Tensor]:
    torch.manual_seed(0)
    made = GatingMLP(6, 9, causal, 13).double()
    torch.nn.init.normal_(made.spatial)
    torch.nn.init.normal_(made.bias)
    return made, torch.randn(2, 13, 6, dtype=torch.float64)


def test_at_its_start_it_is_an_mlp_of_one_half() -> None:
    torch.manual_seed(0)
    op = GatingMLP(6, 9, False, 13)
    assert op.spatial.abs().max() <= 1e-3 / 13
    x = torch.randn(2, 13, 6)
    plain = op.down(F.gelu(op.up(x))[..., :9])
    assert (op(x) - plain).abs().max() < 5e-3
    torch.nn.init.zeros_(op.spatial)
    close(op(x), plain)


def test_it_is_its_equation() -> None:
    op, x = layer(False)
    a, b = F.gelu(op.up(x)).chunk(2, -1)
    b = F.layer_norm(b, (9,), op.norm.weight, op.norm.bias, 1e-5)
    close(op(x), op.down(a * (torch.einsum("ts,bsc->btc", op.spatial, b) + op.bias)))


def test_an_identity_without_bias_gates_a_token_by_itself() -> None:
    op, x = layer(True)
    with torch.no_grad():
        op.spatial.copy_(torch.eye(13))
        op.bias.zero_()
    a, b = op.halves(x)
    close(op(x), op.down(a * b))


def test_a_causal_map_has_no_weights_above_the_diagonal() -> None:
    op, x = layer(True)
    op(x).square().sum().backward()
    assert op.spatial.grad is not None
    assert not op.spatial.grad.triu(1).any()
    assert op.spatial.grad.tril()[1:, 0].all()


def test_a_shorter_sequence_reads_the_corner() -> None:
    op, x = layer(True)
    close(op(x[:, :5]), op(x)[:, :5])


def test_channels_share_the_map_and_places_do_not() -> None:
    op, x = layer(False)
    order = torch.randperm(13)
    moved = GatingMLP(6, 9, False, 13).double()
    moved.load_state_dict(op.state_dict())
    with torch.no_grad():
        moved.spatial.copy_(op.spatial[order][:, order])
        moved.bias.copy_(op.bias[order])
    close(moved(x[:, order]), op(x)[:, order])


def test_widths_are_those_of_the_paper() -> None:
    assert OP.init(seq(128, 512), mult=OP.params["mult"].default, causal=False)["half"] == 1536
