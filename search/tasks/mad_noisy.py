"""Noisy in-context recall of MAD: a fifth of the pairs is noise of 16 tokens of its own."""

from search.data import mad, probes

VOCAB, LENGTH, NOISE_VOCAB, NOISE = 32, 128, 16, 0.2

TASK = probes.task(
    "mad_noisy",
    "MAD: recall among noise tokens, 16 + 16 symbols, 128 tokens",
    lambda rows, training, generator: mad.recall(
        rows,
        VOCAB,
        LENGTH,
        all_labels=training,
        generator=generator,
        noise_vocab=NOISE_VOCAB,
        noise=NOISE,
    ),
    length=LENGTH,
    vocab=VOCAB,
)
