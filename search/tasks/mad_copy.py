"""Selective copying of MAD: 16 tokens among 223 blanks, wanted in order at the end."""

from search.data import mad, probes

VOCAB, LENGTH, COUNT = 16, 256, 16

TASK = probes.task(
    "mad_copy",
    "MAD: copy 16 tokens spread among blanks, 16 symbols, 256 tokens",
    lambda rows, training, generator: mad.copy(rows, VOCAB, LENGTH, COUNT, generator=generator),
    length=LENGTH,
    vocab=VOCAB,
    batch=16,
)
