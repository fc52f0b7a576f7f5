"""Multi-threading: three threads of two steps."""

from search.data import needle, probes

HEAP = needle.Heap(threads=3, steps=2)

TASK = probes.task(
    "needle_threads",
    "needle: where three threads of two steps end, 16 pairs",
    lambda rows, training, generator: needle.generate(rows, HEAP, generator=generator),
    length=HEAP.length,
    vocab=HEAP.vocab,
)
