"""Head: what the task wants, from a sequence, an image or a vector."""

import pytest
import torch

from ops.pool.head import OP, Head
from ops.spec import Mismatch, image, scores, seq, tokens, vec
from tests.ops.case import Case, close

OP_NAME = "head"
CASES = [
    Case(seq(9, 6, may_pad=True), target=scores(4)),
    Case(image(3, 4, 5), target=scores(4)),
    Case(vec(7), {"bias": False}, target=scores(1)),
    Case(seq(9, 6), target=vec(5)),
    Case(scores(3), target=scores(2)),
    Case(
        seq(9, 6),
        target=seq(9, 11),
        waive={"mask": "a language model scores every token; its loss leaves out the padded ones"},
    ),
]


def test_classes_come_from_the_mean_over_real_tokens() -> None:
    layer, x = Head(6, 4), torch.randn(1, 9, 6)
    close(layer(x, torch.arange(9)[None] < 5), layer(x[:, :5]))
    close(layer(x), x.mean(1) @ layer.weight.T + layer.bias)


def test_a_language_model_scores_each_token_alone() -> None:
    layer, x = Head(6, 11, per_token=True), torch.randn(2, 9, 6)
    close(layer(x, torch.arange(9) < 5)[:, 3], layer(x[:, 3:4])[:, 0])
    assert OP.is_causal(seq(9, 6), bias=True, target=seq(9, 11))
    assert not OP.is_causal(seq(9, 6), bias=True, target=scores(4))


def test_without_a_task_there_is_nothing_to_aim_at() -> None:
    with pytest.raises(Mismatch, match="nothing to aim at: give a task"):
        OP.shape(seq(9, 6), bias=True, target=None)


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(Mismatch, match="wants 9 tokens, this has 8"):
        OP.shape(seq(8, 6), bias=True, target=seq(9, 11))
    with pytest.raises(Mismatch, match="needs seq"):
        OP.shape(vec(6), bias=True, target=seq(9, 11))
    with pytest.raises(Mismatch, match="cannot make"):
        OP.shape(seq(8, 6), bias=True, target=tokens(9, 11))
