"""Trainable pooling: one token, order, padding, constant latents, unit length."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ops.pool.trainable import OP, TrainablePool
from ops.spec import seq
from tests.ops.case import Case, close

OP_NAME = "trainable_pool"
SHARED = "the latents' query is made once for the batch; the op's own test counts it"
CASES = [
    Case(seq(9, 6, may_pad=True), {"heads": 2, "latents": 5}, waive={"flops": SHARED}),
    Case(
        seq(7, 6, may_pad=True),
        {"heads": 3, "head_dim": 4, "latents": 2, "over": "last", "norm": False},
        waive={"flops": SHARED},
    ),
]
SMALL = {"dim": 6, "heads": 2, "width": 3, "latents": 5, "norm": True}


def pool(**given: object) -> TrainablePool:
    return TrainablePool(**(SMALL | given)).double()  # type: ignore[arg-type]  # constructor words


def tokens() -> torch.Tensor:
    return torch.randn(2, 9, 6, dtype=torch.float64)


def test_one_token_adds_the_same_to_every_latent_whatever_the_query() -> None:
    layer, x = pool(over="last"), tokens()
    before = layer(x)
    v = layer.kv(layer.norm_x(x[:, -1])).chunk(2, -1)[1]
    z = layer.latents + layer.out(v)[:, None]
    gate, up = layer.gate_up(layer.norm_mixed(z)).chunk(2, -1)
    expected = (z + layer.down(nn.functional.gelu(gate) * up)).mean(1)
    close(before, nn.functional.normalize(expected, dim=-1))
    with torch.no_grad():
        layer.query.weight.mul_(5.0)
    close(layer(x), before)


def test_order_and_padding_change_nothing_and_the_length_is_one() -> None:
    layer, x = pool(), tokens()
    close(layer(x.flip(1)), layer(x))
    mask = (torch.arange(9) >= 4).expand(2, 9)
    close(layer(x, mask), layer(x[:, 4:]))
    close(layer(x).norm(dim=-1), torch.ones(2, dtype=torch.float64))


def test_last_is_the_last_real_token_on_either_side() -> None:
    layer, x = pool(over="last"), tokens()
    close(layer(x, (torch.arange(9) < 6).expand(2, 9)), layer(x[:, :6]))
    close(layer(x, (torch.arange(9) >= 3).expand(2, 9)), layer(x))


def test_one_latent_that_reads_nothing_is_constant() -> None:
    layer = pool(latents=1)
    with torch.no_grad():
        layer.out.weight.zero_()
        layer.down.weight.zero_()
        layer.down.bias.zero_()
    z = layer.latents / layer.latents.norm()
    close(layer(tokens()), z.expand(2, 6))


def test_flops_are_those_of_one_sample_beside_the_shared_query() -> None:
    layer, given = pool(), {"heads": 2, "head_dim": None, "latents": 5, "norm": True}
    for kind, over in ((layer, "all"), (pool(over="last"), "last")):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            kind(tokens())
        shared = 2 * 5 * 6 * 6
        assert (
            counter.get_total_flops() == 2 * OP.cost(seq(9, 6), **given, over=over).flops + shared
        )
