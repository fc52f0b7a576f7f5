"""Conditional needles: four of 16 pairs are flagged, and wanted in order of place."""

from search.data import needle, probes

HEAP = needle.Heap(threads=4, flagged=True)

TASK = probes.task(
    "needle_conditional",
    "needle: the values of four flagged keys, 16 pairs",
    lambda rows, training, generator: needle.generate(rows, HEAP, generator=generator),
    length=HEAP.length,
    vocab=HEAP.vocab,
)
