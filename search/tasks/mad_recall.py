"""In-context recall of MAD: 64 pairs of 8 keys and 8 values; `search/data/mad.py` has the rules."""

from search.data import mad, probes

VOCAB, LENGTH = 16, 128

TASK = probes.task(
    "mad_recall",
    "MAD: the value that a key had before in the row, 16 symbols, 128 tokens",
    lambda rows, training, generator: mad.recall(
        rows, VOCAB, LENGTH, all_labels=training, generator=generator
    ),
    length=LENGTH,
    vocab=VOCAB,
)
