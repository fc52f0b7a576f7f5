"""Fuzzy in-context recall of MAD: keys and values of 1 to 3 tokens, tested on keys of 3."""

from search.data import mad, probes

VOCAB, LENGTH = 16, 128

TASK = probes.task(
    "mad_fuzzy",
    "MAD: recall where keys and values are 1 to 3 tokens, 16 symbols, 128 tokens",
    lambda rows, training, generator: mad.fuzzy(
        rows, VOCAB, LENGTH, training=training, generator=generator
    ),
    length=LENGTH,
    vocab=VOCAB,
)
