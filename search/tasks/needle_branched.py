"""Branched threading: three steps; a key stands twice, one of its values leads on."""

from search.data import needle, probes

HEAP = needle.Heap(steps=3, direction="random", branches=2)

TASK = probes.task(
    "needle_branched",
    "needle: the end of the longest branch, 16 pairs",
    lambda rows, training, generator: needle.generate(rows, HEAP, generator=generator),
    length=HEAP.length,
    vocab=HEAP.vocab,
)
