"""Fixed tokens: one text for every input, words frequent and rare."""

import torch

from ops.attention.fixed_tokens import FixedTokens
from ops.spec import tokens
from tests.ops.case import Case

OP_NAME = "fixed_tokens"
CASES = [Case(tokens(63, 11)), Case(tokens(9, 2, may_pad=True))]


def test_the_input_does_not_matter_and_the_seed_does() -> None:
    first, again, other = FixedTokens(21, 50, 1), FixedTokens(21, 50, 1), FixedTokens(21, 50, 2)
    x, y = torch.zeros(2, 21, dtype=torch.long), torch.randint(0, 50, (2, 21))
    assert torch.equal(first(x), first(y))
    assert torch.equal(first(x), again(x))
    assert not torch.equal(first(x), other(x))


def test_ids_are_words_of_the_vocabulary_and_never_padding() -> None:
    text = FixedTokens(4000, 30, 0).text
    assert text.min() >= 1
    assert text.max() <= 29
    counts = text.bincount(minlength=30)
    assert counts[1:6].sum() > counts[-5:].sum()
