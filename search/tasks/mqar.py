"""Multi-query associative recall (Arora et al. 2023, "Zoology", arXiv:2312.04927, appendix).

A row of N tokens: D pairs key value, then each key once more at a random even place; there the
answer is its value, elsewhere there is no label. Keys are 1..V/2-1, values V/2..V-1, distinct in a
row; filler is token 0 (the setting of the paper's figure 2). The gap before a query follows the
power law p(g) ~ g^(a-1), a = 0.01. Here V = 64, N = 64, D = 4, smaller than the paper's V = 8192,
so that a search fits on one core. Needs D keys below V/2 and 4 D <= N. Chance among values: 1/32.
"""

import hashlib

import torch
from torch import Tensor

from einspace.interface import Interface
from ops.spec import seq, tokens
from search.scores import IGNORE, accuracy, cross_entropy
from search.task import Budget, Data, Split, Task

VOCAB, LENGTH, PAIRS = 64, 64, 4
POWER = 0.01
SIZES = (20_000, 1_000, 1_000)


def load(seed: int) -> Data:
    """20,000 / 1,000 / 1,000 rows, all drawn from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    x, y = generate(sum(SIZES), VOCAB, LENGTH, PAIRS, generator=generator)
    parts = zip(torch.split(x, list(SIZES)), torch.split(y, list(SIZES)), strict=True)
    train, val, test = (Split(a, b) for a, b in parts)
    digest = hashlib.sha256(x.numpy().tobytes()).hexdigest()
    return Data(train, val, test, f"mqar generated, seed {seed} sha256:{digest}", digest, "ours")


def generate(
    rows: int, vocab: int, length: int, pairs: int, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rows [rows, length] and labels, -100 where there is none.

    Raises: ValueError where the pairs do not fit into the row or the vocabulary.
    """
    if length % 2 or 4 * pairs > length or pairs >= vocab // 2:
        raise ValueError(f"{pairs} pairs do not fit into {length} tokens of {vocab} symbols")
    half = vocab // 2
    keys = 1 + _distinct(torch.ones(half - 1), rows, pairs, generator)
    values = half + _distinct(torch.ones(vocab - half), rows, pairs, generator)
    gap = torch.arange(1, (length - 2 * pairs) // 2 + 1, dtype=torch.float32)
    place = 2 * pairs + 2 * _distinct(POWER * gap ** (POWER - 1), rows, pairs, generator)
    x = torch.zeros(rows, length, dtype=torch.long)
    x[:, 0 : 2 * pairs : 2], x[:, 1 : 2 * pairs : 2] = keys, values
    y = torch.full_like(x, IGNORE)
    return x.scatter_(1, place, keys), y.scatter_(1, place, values)


def _distinct(weights: Tensor, rows: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` distinct indices a row, drawn in turn with the weights (Gumbel top-k)."""
    uniform = torch.rand(rows, len(weights), generator=generator).clamp_min_(1e-12)
    gumbel = -torch.log((-torch.log(uniform)).clamp_min_(1e-12))
    return (weights.log() + gumbel).topk(count, dim=1).indices


TASK = Task(
    name="mqar",
    about="associative recall: 4 key-value pairs in 64 tokens, 64 symbols (synthetic)",
    interface=Interface({"x": tokens(LENGTH, VOCAB)}, target=seq(LENGTH, VOCAB), causal=True),
    metric="acc",
    direction="maximize",
    budget=Budget(epochs=6, min_epochs=3, batch=64, max_params=500_000, max_flops=16_000_000),
    load=load,
    loss=cross_entropy,
    score=accuracy,
    steps_per_epoch=100,
)
