"""Which of six trees a leaf is from, by its outline: 427 distances from the centre (OSULeaf).

The official test part is the test; a fifth of each class of the training part is validation. The
outlines come normalised, each by itself. Nearest neighbour: 52.1 %.
"""

import torch

from einspace.interface import Interface
from ops.spec import scores, seq
from search.data import package, splits, timeseries
from search.scores import accuracy, cross_entropy
from search.task import Budget, Data, Split, Task

PATHS = tuple(f"aeon/datasets/data/OSULeaf/OSULeaf_{p}.ts" for p in ("TRAIN", "TEST"))
SHA256 = "47256f1e08e6af092823b340bcfd4b68c4adf962114dc13107825fdf9019001d"
LENGTH, CLASSES = 427, 6
TRAIN, TEST = 200, 242


def load(seed: int) -> Data:
    """159 / 41 / 242 outlines; `seed` chooses the validation part."""
    found = package.read("aeon", PATHS, SHA256)
    cases, y = timeseries.parse(found.content, classes=CLASSES, cases=TRAIN + TEST)
    fit, val = splits.stratified(y[:TRAIN], 0.2, seed=seed)
    x = torch.stack(cases)
    return Data(
        Split(x[fit], y[fit]),
        Split(x[val], y[val]),
        Split(x[TRAIN:], y[TRAIN:]),
        found.provenance,
        found.sha256,
        "BSD-3-Clause package; data of the UCR archive",
    )


TASK = Task(
    name="osuleaf",
    about="six trees by the outline of a leaf, 427 points (442 leaves)",
    interface=Interface({"x": seq(LENGTH, 1)}, target=scores(CLASSES)),
    metric="acc",
    direction="maximize",
    budget=Budget(epochs=30, min_epochs=6, batch=16, max_params=200_000, max_flops=40_000_000),
    load=load,
    loss=cross_entropy,
    score=accuracy,
)
