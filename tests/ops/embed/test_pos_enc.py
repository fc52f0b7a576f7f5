"""Position encoding: the published sinusoids, and a table for the rest."""

import math

import pytest
import torch

from ops.embed.pos_enc import OP, PosEnc
from ops.spec import Mismatch, image, seq
from tests.ops.case import Case, close

OP_NAME = "pos_enc"
CASES = [
    Case(seq(9, 6)),
    Case(seq(9, 7, may_pad=True), {"kind": "sin"}),
    Case(seq(9, 6), {"kind": "learned"}),
    Case(image(3, 4, 5), {"kind": "learned"}),
]


@pytest.mark.parametrize("dim", [5, 8])
def test_sinusoids_are_those_of_the_paper(dim: int) -> None:
    y = PosEnc(dim).double()(torch.zeros(1, 40, dim, dtype=torch.float64))[0]
    for t in (0, 1, 39):
        for d in range(dim):
            angle = t / 10000 ** (2 * (d // 2) / dim)
            expected = math.cos(angle) if d % 2 else math.sin(angle)
            assert y[t, d].item() == pytest.approx(expected, abs=1e-5)


def test_it_is_added_to_the_input() -> None:
    layer, x = PosEnc(6), torch.randn(2, 9, 6)
    close(layer(x) - x, layer(torch.zeros(1, 9, 6)).expand(2, 9, 6))


def test_a_learned_table_serves_shorter_sequences() -> None:
    layer, x = PosEnc(6, (9, 6)), torch.randn(2, 9, 6)
    close(layer(x[:, :4]), layer(x)[:, :4])


def test_decoding_past_a_learned_table_is_refused() -> None:
    with pytest.raises(ValueError, match="end at 9"):
        PosEnc(6, (9, 6)).init_state(1, 10)


def test_an_image_has_no_order_to_count() -> None:
    with pytest.raises(Mismatch, match="counts tokens") as found:
        OP.shape(image(3, 4, 5), kind="sin")
    assert "learned" in found.value.hint
