"""The single needle: one of 16 pairs is asked for."""

from search.data import needle, probes

HEAP = needle.Heap()

TASK = probes.task(
    "needle_single",
    "needle: the value of one key, 16 pairs",
    lambda rows, training, generator: needle.generate(rows, HEAP, generator=generator),
    length=HEAP.length,
    vocab=HEAP.vocab,
)
