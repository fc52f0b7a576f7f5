"""Memorization of MAD: 127 keys, each with a value that is the same in every row."""

from search.data import mad, probes

VOCAB, LENGTH = 256, 32

TASK = probes.task(
    "mad_memorize",
    "MAD: the fixed value of each of 127 keys, 256 symbols, 32 tokens",
    lambda rows, training, generator: mad.memorize(rows, VOCAB, LENGTH, generator=generator),
    length=LENGTH,
    vocab=VOCAB,
)
