"""Match: the kinds, padding, and a kernel ranker in the language."""

import pytest
import torch
from torch.nn import functional as F

from einspace.compile import compile_text
from einspace.interface import Interface
from ops.pair.match import OP, Match
from ops.spec import Mismatch, image, scores, seq, tokens
from tests.einspace.oracle import built, interpret
from tests.ops.case import Case, close

OP_NAME = "match"
ALL = ("dot", "cos", "l2", "mul", "plus", "minus", "concat")
WAIVE = {"mask": "padding adds a channel, and the suite pads both alike; the own tests look at it"}
CASES = [
    *(Case((seq(5, 4), seq(7, 4)), {"kind": kind}, waive=WAIVE) for kind in ALL),
    Case((tokens(5, 9), tokens(7, 9)), {"kind": "exact"}, waive=WAIVE),
]


def test_cosine_of_one_hot_embeddings_is_an_exact_match() -> None:
    q, d = torch.randint(0, 6, (2, 5)), torch.randint(0, 6, (2, 7))
    hot = [3.0 * F.one_hot(ids, 6).float() for ids in (q, d)]
    close(Match("cos")(*hot), Match("exact")(q, d))


def test_distances_and_pairs_are_what_they_say() -> None:
    q, d = torch.randn(2, 5, 4), torch.randn(2, 7, 4)
    gap = q[:, :, None] - d[:, None]
    close(Match("l2")(q, d)[:, 0], -gap.square().sum(-1), scale=10)
    close(Match("minus")(q, d), gap.movedim(-1, 1))
    close(Match("concat")(q, d)[:, :4, :, 2], q.mT)
    assert Match("concat")(q, d).shape == (2, 8, 5, 7)


def test_padding_is_zero_and_told_in_the_last_channel() -> None:
    q, d = torch.randn(2, 5, 4), torch.randn(2, 7, 4)
    left, right = torch.arange(5) < 3, torch.arange(7) < 6
    y = Match("dot")(q, d, (left.expand(2, 5), right.expand(2, 7)))
    real = (left[:, None] & right).expand(2, 5, 7)
    assert torch.equal(y[:, 1], real.float())
    assert not y[:, 0][~real].any()
    close(y[:, 0, :3, :6], Match("dot")(q, d)[:, 0, :3, :6])
    one = Match("dot")(q, d, (None, right.expand(2, 7)))
    assert torch.equal(one[:, 1], right.expand(2, 5, 7).float())


def test_types_tell_of_padding() -> None:
    assert OP.shape(seq(5, 4), seq(7, 4), kind="cos") == image(1, 5, 7)
    assert OP.shape(seq(5, 4), seq(7, 4, may_pad=True), kind="cos") == image(2, 5, 7)
    assert OP.shape(seq(5, 4), seq(7, 4), kind="concat") == image(8, 5, 7)
    with pytest.raises(Mismatch, match="differ in width"):
        OP.shape(seq(5, 4), seq(7, 3), kind="cos")
    with pytest.raises(Mismatch, match="needs tokens"):
        OP.shape(seq(5, 4), seq(7, 4), kind="exact")


KNRM = """
let enc = embed(dim=8);
match(@query >> enc, @document >> enc, kind=cos) >> kernel_pool(kernels=11) >> head
"""


def test_a_kernel_ranker_is_written_as_in_the_language_s_own_example() -> None:
    kinds = {"query": tokens(5, 20, may_pad=True), "document": tokens(9, 20, may_pad=True)}
    compiled = compile_text(KNRM, Interface(kinds, scores(1)))
    again = compile_text(compiled.text, Interface(kinds, scores(1)))
    assert again.hash == compiled.hash
    model = built(compiled)
    q, d = torch.randint(1, 20, (2, 5)), torch.randint(1, 20, (2, 9))
    d[:, 6:] = 0
    close(model(q, d), interpret(compiled, model, [q, d]))


def test_padding_changes_no_score_of_the_kernel_ranker() -> None:
    def model(length: int) -> torch.nn.Module:
        kinds = {"query": tokens(5, 20, may_pad=True), "document": tokens(length, 20, may_pad=True)}
        return built(compile_text(KNRM, Interface(kinds, scores(1))))

    q, d = torch.randint(1, 20, (2, 5)), torch.randint(1, 20, (2, 9))
    long = model(14)
    long.load_state_dict(model(9).state_dict())
    close(long(q, F.pad(d, (0, 5))), model(9)(q, d))
