"""Threading backward: three pairs lead on, each earlier in the row."""

from search.data import needle, probes

HEAP = needle.Heap(steps=3, direction="backward")

TASK = probes.task(
    "needle_thread_back",
    "needle: where three steps backward end, 16 pairs",
    lambda rows, training, generator: needle.generate(rows, HEAP, generator=generator),
    length=HEAP.length,
    vocab=HEAP.vocab,
)
