"""Three digits as the three channels of an image, labelled by arithmetic on them, classes balanced.

For each class the triples (a, b, c) of digits with that answer are drawn evenly, then an image of
each digit. The digits of the three parts are the disjoint parts of MNIST-5k (the fixed split of
`search/tasks/mnist5k.py`), so no digit of a test image was ever seen. After AddNIST and MultNIST
of "Unseen NAS" (Geada et al. 2024, arXiv:2404.02189), which use the whole of MNIST.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from einspace.interface import Interface
from ops.spec import image, scores
from search.data.draw import sha256
from search.scores import accuracy, cross_entropy
from search.task import Budget, Data, Split, Task
from search.tasks import mnist5k

Answer = Callable[[int, int, int], int | None]


def answers(answer: Answer) -> Tensor:
    """The class of each of the 1,000 triples, at [a, b, c]; -1 where there is none."""
    table = torch.full((10, 10, 10), -1)
    for a, b, c in torch.cartesian_prod(*[torch.arange(10)] * 3).tolist():
        found = answer(a, b, c)
        table[a, b, c] = -1 if found is None else found
    return table


def generate(
    digits: Split, answer: Answer, classes: int, per_class: int, *, generator: torch.Generator
) -> Split:
    """`per_class` images [3, 28, 28] of each class in random order, made of the rows of `digits`.

    Raises: ValueError where a class has no triple or a digit no image.
    """
    table = answers(answer)
    pools = [(digits.y == d).nonzero().squeeze(1) for d in range(10)]
    if not all(len(pool) for pool in pools):
        raise ValueError("a digit has no image")
    chosen = []
    for label in range(classes):
        triples = (table == label).nonzero()
        if not len(triples):
            raise ValueError(f"no three digits give class {label}")
        rows = torch.randint(len(triples), (per_class,), generator=generator)
        chosen.append(triples[rows])
    triples = torch.cat(chosen)
    held = torch.tensor([len(pool) for pool in pools])
    sizes, ends = held[triples], held.cumsum(0)[triples]
    # A uniform in double: a float32 could round up to the size of the pool.
    at = (torch.rand(triples.shape, generator=generator, dtype=torch.float64) * sizes).long()
    images = torch.cat(pools)[ends - sizes + at]
    labels = torch.arange(classes).repeat_interleave(per_class)
    order = torch.randperm(len(labels), generator=generator)
    return Split(digits.x[images[order]].squeeze(2), labels[order])


def load(seed: int, name: str, answer: Answer, classes: int, per_class: tuple[int, ...]) -> Data:
    """Train, validation and test with so many images a class; `seed` draws the triples."""
    source = mnist5k.load(0)
    generator = torch.Generator().manual_seed(seed)
    train, val, test = (
        generate(part, answer, classes, count, generator=generator)
        for part, count in zip((source.train, source.val, source.test), per_class, strict=True)
    )
    digest = sha256((train.x, train.y, val.x, val.y, test.x, test.y))
    provenance = f"{name} of {source.provenance}, seed {seed} sha256:{digest}"
    return Data(train, val, test, provenance, digest, source.licence)


def jitter(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each digit moved by its own offset of up to two pixels on both axes."""
    return mnist5k.shift(x.flatten(0, 1).unsqueeze(1), generator).view_as(x)


def task(name: str, about: str, answer: Answer, classes: int, per_class: tuple[int, ...]) -> Task:
    """The task of classifying such images."""
    return Task(
        name=name,
        about=about,
        interface=Interface({"x": image(3, 28, 28)}, target=scores(classes)),
        metric="acc",
        direction="maximize",
        budget=Budget(epochs=8, min_epochs=2, batch=64, max_params=500_000, max_flops=8_000_000),
        load=lambda seed: load(seed, name, answer, classes, per_class),
        loss=cross_entropy,
        score=accuracy,
        augment=jitter,
    )
