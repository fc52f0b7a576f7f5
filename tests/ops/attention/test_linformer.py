"""Linformer: the identity projection is full attention; sharing; padding."""

import torch

from ops.attention.linformer import Linformer
from ops.attention.softmax import SoftmaxAttention
from ops.spec import seq
from tests.ops.attention.plain import data
from tests.ops.case import Case, close

OP_NAME = "linformer"
CASES = [
    Case(seq(63, 12, may_pad=True), {"heads": 3, "rank": 7}),
    Case(seq(21, 12, may_pad=True), {"heads": 2, "rank": 4, "shared": True}),
    Case(seq(9, 12), {"heads": 3}),
]


def test_identity_projections_are_full_attention() -> None:
    layer = Linformer(12, 3, 21, False, 21).double()
    with torch.no_grad():
        layer.squeeze.copy_(torch.eye(21).expand(2, -1, -1))
    dense = SoftmaxAttention(12, 3).double()
    q, kv = layer.qkv.weight.detach().split([12, 24])
    dense.load_state_dict({"q.weight": q, "kv.weight": kv, "out.weight": layer.out.weight.detach()})
    close(layer(data()), dense.alone(data()))


def test_rank_1_gives_every_token_the_same_value() -> None:
    layer = Linformer(12, 3, 1, True, 21).double()
    v = layer.qkv(data())[..., 24:]
    pooled = layer.out((layer.squeeze[0] @ v).expand(-1, 21, -1))
    close(layer(data()), pooled)


def test_shared_projections_halve_their_parameters() -> None:
    assert Linformer(12, 3, 5, True, 21).squeeze.numel() == 105
    assert Linformer(12, 3, 5, False, 21).squeeze.numel() == 210
