"""Threading: three pairs lead on from one to the next, each later in the row."""

from search.data import needle, probes

HEAP = needle.Heap(steps=3)

TASK = probes.task(
    "needle_thread",
    "needle: where three steps forward end, 16 pairs",
    lambda rows, training, generator: needle.generate(rows, HEAP, generator=generator),
    length=HEAP.length,
    vocab=HEAP.vocab,
)
