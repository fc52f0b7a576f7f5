"""Tasks of rows of tokens drawn from a seed: what MAD and the needles have in common."""

from collections.abc import Callable

import torch
from torch import Tensor

from einspace.interface import Interface
from ops.spec import TensorType, seq, tokens
from search.data.draw import sha256
from search.scores import accuracy, cross_entropy
from search.task import Budget, Data, Split, Task

# (rows, is it training?, generator) -> rows of tokens and their labels
Draw = Callable[[int, bool, torch.Generator], tuple[Tensor, Tensor]]
SIZES = (12_800, 1_280, 1_280)


def load(name: str, draw: Draw, seed: int) -> Data:
    """12,800 / 1,280 / 1,280 rows, all drawn from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    train, val, test = (Split(*draw(size, i == 0, generator)) for i, size in enumerate(SIZES))
    digest = sha256((train.x, train.y, val.x, val.y, test.x, test.y))
    return Data(train, val, test, f"{name} generated, seed {seed} sha256:{digest}", digest, "ours")


def task(
    name: str,
    about: str,
    draw: Draw,
    *,
    length: int,
    vocab: int,
    target: TensorType | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    score: Callable[[Tensor, Tensor], tuple[float, int]] = accuracy,
    batch: int = 32,
) -> Task:
    """A causal task with labels at tokens, or one with another `target` that need not be causal."""
    return Task(
        name=name,
        about=f"{about} (synthetic)",
        interface=Interface(
            {"x": tokens(length, vocab)}, target=target or seq(length, vocab), causal=target is None
        ),
        metric="acc",
        direction="maximize",
        budget=Budget(
            epochs=6, min_epochs=3, batch=batch, max_params=500_000, max_flops=48_000_000
        ),
        load=lambda seed: load(name, draw, seed),
        loss=loss,
        score=score,
        steps_per_epoch=100,
    )
