"""Compression of MAD: a row of 32 tokens through one vector.

MAD decodes the encoder's last position with a fixed MLP. Here the target is one vector of 32 x 16
scores, so the vector that reaches `head` is the bottleneck; where it is read, and what decodes it,
is the architecture's own affair.
"""

from torch import Tensor

from ops.spec import scores
from search.data import mad, probes
from search.scores import accuracy, cross_entropy

VOCAB, LENGTH = 16, 32


def by_place(y: Tensor) -> Tensor:
    """[B, 32 x 16] as scores of each place [B, 32, 16]."""
    return y.view(-1, LENGTH, VOCAB)


TASK = probes.task(
    "mad_compress",
    "MAD: all of 32 tokens from one vector, 16 symbols",
    lambda rows, training, generator: mad.compress(rows, VOCAB, LENGTH, generator=generator),
    length=LENGTH,
    vocab=VOCAB,
    target=scores(LENGTH * VOCAB),
    loss=lambda y, target: cross_entropy(by_place(y), target),
    score=lambda y, target: accuracy(by_place(y), target),
)
