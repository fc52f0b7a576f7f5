"""Handwritten digits, 8 x 8 pixels: the smoke test among the image tasks.

1,797 images from scikit-learn's data folder, split 70/15/15 by the seed; pixels 0..16 are centred
at 8 and scaled to [-1, 1]. Nearest neighbour: about 98 %.
"""

from einspace.interface import Interface
from ops.spec import image, scores
from search.data import package, splits, table
from search.scores import accuracy, cross_entropy
from search.task import Budget, Data, Split, Task

PATH = "sklearn/datasets/data/digits.csv.gz"
SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
SIZES = (1257, 270, 270)


def load(seed: int) -> Data:
    """1,257 / 270 / 270 images, shuffled by `seed`."""
    found = package.read("scikit-learn", (PATH,), SHA256)
    rows = table.parse(found.content, rows=1797, columns=65)
    x, y = (rows[:, :64] / 8 - 1).view(-1, 1, 8, 8), rows[:, 64].long()
    train, val, test = (Split(x[i], y[i]) for i in splits.shuffled(1797, SIZES, seed=seed))
    return Data(train, val, test, found.provenance, found.sha256, "BSD-3-Clause")


TASK = Task(
    name="digits",
    about="handwritten digits, 8 x 8, 10 classes (1,797 images)",
    interface=Interface({"x": image(1, 8, 8)}, target=scores(10)),
    metric="acc",
    direction="maximize",
    budget=Budget(epochs=12, min_epochs=3, batch=32, max_params=200_000, max_flops=2_000_000),
    load=load,
    loss=cross_entropy,
    score=accuracy,
)
