"""Multiple needles: four of 16 pairs are asked for."""

from search.data import needle, probes

HEAP = needle.Heap(threads=4)

TASK = probes.task(
    "needle_multiple",
    "needle: the values of four keys, 16 pairs",
    lambda rows, training, generator: needle.generate(rows, HEAP, generator=generator),
    length=HEAP.length,
    vocab=HEAP.vocab,
)
