"""Who says the vowel: nine speakers, 12 speech coefficients over 7 to 29 frames (JapaneseVowels).

The natural task for masks: zero rows are padding. The official test part is the test; a fifth of
each class of the training part is validation. Channels are standardised with the frames of the
training part.
"""

import torch

from einspace.interface import Interface
from ops.spec import scores, seq
from search.data import package, splits, timeseries
from search.scores import accuracy, cross_entropy
from search.task import Budget, Data, Split, Task

PATHS = tuple(f"aeon/datasets/data/JapaneseVowels/JapaneseVowels_{p}.ts" for p in ("TRAIN", "TEST"))
SHA256 = "c755c99a2ac227123c34966a41b7940e802cdd6c360f7915e7c37cb8a781e821"
LENGTH, CHANNELS, CLASSES = 29, 12, 9
TRAIN, TEST = 270, 370


def load(seed: int) -> Data:
    """216 / 54 / 370 utterances; `seed` chooses the validation part."""
    found = package.read("aeon", PATHS, SHA256)
    cases, y = timeseries.parse(found.content, classes=CLASSES, cases=TRAIN + TEST)
    fit, val = splits.stratified(y[:TRAIN], 0.2, seed=seed)
    deviation, mean = torch.std_mean(torch.cat([cases[i] for i in fit.tolist()]), dim=0)
    x = timeseries.padded([(case - mean) / deviation for case in cases], LENGTH)
    return Data(
        Split(x[fit], y[fit]),
        Split(x[val], y[val]),
        Split(x[TRAIN:], y[TRAIN:]),
        found.provenance,
        found.sha256,
        "BSD-3-Clause package; UCI archive data, CC BY 4.0",
    )


TASK = Task(
    name="vowels",
    about="nine speakers by 12 speech coefficients, 7 to 29 frames (640 utterances)",
    interface=Interface({"x": seq(LENGTH, CHANNELS, may_pad=True)}, target=scores(CLASSES)),
    metric="acc",
    direction="maximize",
    budget=Budget(epochs=30, min_epochs=6, batch=16, max_params=200_000, max_flops=8_000_000),
    load=load,
    loss=cross_entropy,
    score=accuracy,
)
