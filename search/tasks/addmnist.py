"""The sum of three digits, one a channel: 20 classes, sums 1 to 20 (AddNIST on MNIST-5k).

4,000 / 1,000 / 2,000 images, as many of each class; the label is the sum less one. The channels are
digits of the disjoint parts of MNIST-5k.
"""

from search.data import triples

PER_CLASS = (200, 50, 100)


def answer(a: int, b: int, c: int) -> int | None:
    """The class of three digits; None for the sums 0 and above 20."""
    return a + b + c - 1 if 1 <= a + b + c <= 20 else None


TASK = triples.task(
    "addmnist",
    "sum of three digits in three channels, 28 x 28, 20 classes (7,000 images)",
    answer,
    20,
    PER_CLASS,
)
