"""Native sparse attention: each gate alone, the shared choice, blocks that have not ended."""

import pytest
import torch
from torch import Tensor

from ops.attention.nsa import OP, NativeSparseAttention
from ops.attention.sink import SinkAttention
from ops.spec import Mismatch, seq
from tests.ops.attention.plain import data, plain
from tests.ops.case import Case, close, complete

OP_NAME = "nsa_attn"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 6, "kv_heads": 2, "block": 4, "top": 4, "window": 5}),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "block": 5, "top": 3, "pos": "rope"}),
    Case(seq(21, 12), {"heads": 3, "kv_heads": 1}),
]


def gated(layer: NativeSparseAttention, *gates: float) -> NativeSparseAttention:
    """The three gates at fixed values."""

    def fixed(x: Tensor) -> Tensor:
        logit = torch.tensor(gates, dtype=x.dtype).logit()
        return logit.repeat_interleave(layer.heads).expand(*x.shape[:2], -1)

    layer.gate.forward = fixed  # type: ignore[method-assign]  # fixed gates
    return layer


def layer_of(**settings: int) -> NativeSparseAttention:
    torch.manual_seed(0)
    return NativeSparseAttention(12, 6, 2, **settings).double()


def test_all_blocks_chosen_is_dense() -> None:
    layer = gated(layer_of(block=4, top=6), 0.0, 1.0, 0.0)
    close(layer(data()), plain(layer)(data()))


def test_a_window_of_everything_is_dense_and_a_short_one_slides() -> None:
    layer = gated(layer_of(block=4, top=2, window=21), 0.0, 0.0, 1.0)
    close(layer(data()), plain(layer)(data()))
    layer.window = 5
    sliding = plain(layer)
    sliding.allowed = SinkAttention(12, 6, window=5, sink=0).allowed  # type: ignore[method-assign]  # a window
    close(layer(data()), sliding(data()))


def test_closed_gates_give_nothing() -> None:
    assert not gated(layer_of(block=4), 0.0, 0.0, 0.0)(data()).any()


def test_compressed_rows_are_softmax_over_ended_blocks() -> None:
    layer = gated(layer_of(block=4), 1.0, 0.0, 0.0)
    y = layer(data())
    assert not y[:, :3].any()
    q, k, v = layer.project(data(), data(), torch.arange(21))
    k, v = (layer.every_head(z[:, :, :20].unflatten(2, (5, 4)).mean(3)) for z in (k, v))
    o = (q[:, :, 13:14] @ k[:, :, :3].mT * layer.scale).softmax(-1) @ v[:, :, :3]
    close(y[:, 13], layer.merge(o)[:, 0])
    close(y[:, 3], layer.merge(v[:, :, :1])[:, 0])


def test_heads_of_a_group_share_their_blocks_and_three_are_forced() -> None:
    layer = layer_of(block=2, top=4)
    place = torch.arange(21)
    p = torch.rand(2, 6, 21, 11).double().softmax(-1)
    picked = layer.chosen(p, place)
    assert picked.shape == (2, 2, 21, 11)
    assert picked[:, :, 20].sum(-1).eq(4).all()
    assert picked[:, :, 20][..., [0, 9, 10]].all()
    free = p.unflatten(1, (2, 3)).sum(2)[:, :, 20, 1:9].argmax(-1) + 1
    assert picked[:, :, 20].gather(-1, free[..., None]).all()
    assert not (picked & (torch.arange(11) > (place // 2)[:, None])).any()


def test_one_chosen_block_is_the_own_one() -> None:
    layer = layer_of(block=4, top=1)
    picked = layer.chosen(torch.rand(2, 6, 21, 6).double(), torch.arange(21))
    assert picked.int().argmax(-1).eq(torch.arange(21) // 4).all()


def test_groups_must_divide() -> None:
    with pytest.raises(Mismatch, match="does not divide heads"):
        OP.shape(seq(9, 12), **complete(OP, {"heads": 3, "kv_heads": 2}))
