"""Key masking: nothing hidden, all hidden, and the five modes' meanings."""

import pytest
import torch
from torch import Tensor

from ops.attention.key_mask import OP, KeyMaskAttention
from ops.spec import Mismatch, seq
from tests.ops.attention.plain import data, plain, values
from tests.ops.case import Case, close, complete

OP_NAME = "key_mask_attn"
HARD = {"gradients": "a hard choice of keys has no gradient for hide"}
HIDE = (seq(21, 1),)
CASES = [
    Case(
        seq(63, 12, may_pad=True), {"heads": 3, "causal": True}, inputs=(seq(63, 1, may_pad=True),)
    ),
    Case(seq(21, 12, may_pad=True), {"heads": 3, "mode": "bias", "pos": "alibi"}, inputs=HIDE),
    Case(seq(21, 12), {"heads": 3, "mode": "query", "causal": True, "pos": "rope"}, inputs=HIDE),
    Case(seq(21, 12), {"heads": 3, "mode": "value", "causal": True}, inputs=HIDE),
    Case(
        seq(21, 12, may_pad=True),
        {"heads": 3, "mode": "drop", "causal": True, "keep_self": True},
        inputs=HIDE,
        waive=HARD,
    ),
    Case(seq(21, 12), {"heads": 3, "mode": "drop", "causal": True}, inputs=HIDE, waive=HARD),
]
MODES = ["scale", "drop", "bias", "query", "value"]


def half() -> Tensor:
    """Every third token hidden."""
    return (torch.arange(21) % 3 == 0).double()[None, :, None].repeat(2, 1, 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("causal", [False, True])
def test_nothing_hidden_is_plain(mode: str, causal: bool) -> None:
    layer = KeyMaskAttention(12, 3, causal, "rope", mode).double()
    torch.testing.assert_close(
        layer(data(), 0 * half()), plain(layer)(data()), rtol=1e-7, atol=1e-7
    )


@pytest.mark.parametrize("mode", ["scale", "query"])
def test_everything_hidden_makes_the_mean_of_the_values(mode: str) -> None:
    layer = KeyMaskAttention(12, 3, True, mode=mode).double()
    mean = values(layer, data()).cumsum(1) / torch.arange(1, 22)[:, None]
    close(layer(data(), 0 * half() + 1), layer.out(mean))


def test_drop_is_attention_over_the_others() -> None:
    layer = KeyMaskAttention(12, 3, mode="drop").double()
    shown = half()[0, :, 0] == 0
    close(layer(data(), half())[:, shown], plain(layer)(data()[:, shown]))


def test_bias_tends_to_drop() -> None:
    drop, bias = (KeyMaskAttention(12, 3, mode=m).double() for m in ("drop", "bias"))
    bias.load_state_dict(drop.state_dict())
    torch.testing.assert_close(bias(data(), half()), drop(data(), half()), rtol=1e-6, atol=1e-6)


def test_a_constant_share_is_a_temperature() -> None:
    layer = KeyMaskAttention(12, 3).double()
    warm = plain(layer)
    warm.scale = 0.7 * layer.scale
    close(layer(data(), 0 * half() + 0.3), warm(data()))


def test_hidden_values_still_count_when_scaled_but_not_when_dropped() -> None:
    changed = data()
    changed[:, 3] = 5.0
    for mode, counts in (("scale", True), ("drop", False)):
        layer = KeyMaskAttention(12, 3, mode=mode).double()
        same = torch.allclose(layer(changed, half())[:, 4], layer(data(), half())[:, 4])
        assert same != counts


def test_a_mask_of_one_sample_leaves_the_other() -> None:
    layer = KeyMaskAttention(12, 3).double()
    hide = half()
    hide[0] = 0
    close(layer(data(), hide)[0], plain(layer)(data())[0])


def test_a_query_without_keys_is_zero_or_itself() -> None:
    hide = torch.ones(2, 21, 1, dtype=torch.float64)
    layer = KeyMaskAttention(12, 3, True, mode="drop").double()
    assert not layer(data(), hide).any()
    layer = KeyMaskAttention(12, 3, True, mode="drop", keep_self=True).double()
    close(layer(data(), hide), layer.out(values(layer, data())))


def test_refusals() -> None:
    with pytest.raises(Mismatch, match=r"not seq\[9,1\]"):
        OP.shape(seq(9, 12), seq(9, 2), **complete(OP, {"heads": 3}))
    with pytest.raises(Mismatch, match="mode=drop only"):
        OP.shape(seq(9, 12), seq(9, 1), **complete(OP, {"heads": 3, "keep_self": True}))
