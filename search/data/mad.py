"""The six synthetic tasks of MAD (Poli et al. 2024, arXiv:2403.17844), generated row-parallel.

    recall      keys 0..V/2-1 and values V/2..V-1 in turn; a key keeps its value within a row
    fuzzy       keys and values of one to three tokens, padded on the left with V-1
    noisy       recall, where a fifth of the pairs is replaced by two noise tokens
    copy        tokens among blanks; after a copy token they are wanted in order
    compress    random tokens; all of them are wanted from one vector
    memorize    one map from keys to values for all rows: what is tested is what was trained

The last pair of a recall row asks for a key that was shown before. For the recall tasks training
labels are all next tokens, as in the authors' code; validation and test count only value tokens of
keys shown before. Rows have N tokens and N labels, the last of them empty.

Differs: metrics are plain accuracies, where MAD averages over classes; each row draws from the
given generator alone, where MAD's copying draws blanks from numpy's global state.
"""

import torch
from torch import Tensor

from search.data.draw import distinct, shifted
from search.scores import IGNORE

MOTIF = 3  # longest key and value of the fuzzy task, in tokens
MAP_SEED = 12345  # of the memorized map, as in the authors' code

Rows = tuple[Tensor, Tensor]


def recall(
    rows: int,
    vocab: int,
    length: int,
    *,
    all_labels: bool,
    generator: torch.Generator,
    noise_vocab: int = 0,
    noise: float = 0.0,
) -> Rows:
    """Rows [rows, length] and labels. `noise`: the share of pairs, save one and the last, that
    become two of the `noise_vocab` highest tokens.

    Raises: ValueError if vocabulary or length do not allow a recall.
    """
    half, pairs = (vocab - noise_vocab) // 2, length // 2
    if half < 1 or pairs < 3 or length % 2:
        raise ValueError(f"no recall in {length} tokens of {vocab - noise_vocab} symbols")
    keys = torch.randint(half, (rows, pairs), generator=generator)
    meaning = torch.randint(half, 2 * half, (rows, half), generator=generator)
    # A protected slot keeps at least one pair to ask for; the last slot asks.
    kept = torch.rand(rows, pairs, generator=generator) >= noise
    kept[:, -1] = True
    kept.scatter_(1, torch.randint(pairs - 1, (rows, 1), generator=generator), True)
    shown = torch.zeros(rows, half, dtype=torch.long)
    shown = shown.scatter_add(1, keys[:, :-1], kept[:, :-1].long()) > 0
    keys[:, -1] = _any_of(shown, generator)
    told = torch.nn.functional.one_hot(keys, half) * kept[..., None]
    before = (told.cumsum(1) - told).gather(2, keys[..., None]).squeeze(2) > 0
    x = torch.stack([keys, meaning.gather(1, keys)], 2)
    if noise_vocab:
        filler = torch.randint(2 * half, vocab, x.shape, generator=generator)
        x = torch.where(kept[..., None], x, filler)
    known = torch.zeros_like(x, dtype=torch.bool)
    known[..., 1] = before & kept
    x, known = x.flatten(1), known.flatten(1)
    return x, shifted(x, torch.ones_like(known) if all_labels else known)


def _any_of(allowed: Tensor, generator: torch.Generator) -> Tensor:
    """The index of one true entry a row, each equally likely."""
    draw = torch.rand(allowed.shape, generator=generator)
    return draw.masked_fill(~allowed, -1.0).argmax(1)


def fuzzy(
    rows: int, vocab: int, length: int, *, training: bool, generator: torch.Generator
) -> Rows:
    """Recall of motifs: keys are 1 to 3 different tokens in `training` and 3 else, values 1 to 3.

    Keys use tokens 0..(V-1)/2-1, values the next up to V-2; V-1 pads. A row has `length // 6`
    pairs. In training all next tokens are labels, padding apart.
    Raises: ValueError if vocabulary or length are too small.
    """
    half, pairs = (vocab - 1) // 2, length // (2 * MOTIF)
    if half < MOTIF or pairs < 2:
        raise ValueError(f"no motifs of {MOTIF} in {length} tokens of {vocab} symbols")
    shape = (rows, pairs)
    sizes = torch.randint(1, MOTIF + 1, (2, *shape), generator=generator)
    if not training:
        sizes[0] = MOTIF
    drawn = distinct(half, rows * pairs * 2, MOTIF, generator=generator).view(2, *shape, MOTIF)
    keys, values = drawn[0], drawn[1] + half
    asked = torch.randint(pairs - 1, (rows, 1), generator=generator)
    keys[:, -1:] = keys.gather(1, asked[..., None].expand(-1, -1, MOTIF))
    sizes[0, :, -1:] = sizes[0].gather(1, asked)
    place = torch.arange(MOTIF)
    used = place < sizes[..., None]
    code = ((keys + 1) * used[0] * (vocab**place)).sum(2)
    # The first pair with the same key gives the value of all.
    first = (code[:, :, None] == code[:, None, :]).int().argmax(2)
    values = values.gather(1, first[..., None].expand(-1, -1, MOTIF))
    used[1] = used[1].gather(1, first[..., None].expand(-1, -1, MOTIF))
    again = (first < torch.arange(pairs))[..., None] & used[1]
    known = torch.cat([torch.zeros_like(again), again], 2).flatten(1)
    valid = torch.cat([used[0], used[1]], 2).flatten(1)
    x = torch.cat([keys, values], 2).flatten(1).masked_fill(~valid, vocab - 1)
    order = valid.int().argsort(dim=1, stable=True)  # Unused places move to the left.
    gap = torch.full((rows, length - x.shape[1]), vocab - 1)
    x = torch.cat([gap, x.gather(1, order)], 1)
    known = torch.cat([torch.zeros_like(gap, dtype=torch.bool), known.gather(1, order)], 1)
    return x, shifted(x, (x != vocab - 1) if training else known)


def copy(rows: int, vocab: int, length: int, count: int, *, generator: torch.Generator) -> Rows:
    """`count` tokens 0..V-3 at random places among blanks V-2, the copy token V-1, and `count`
    blanks, at which the tokens are wanted in order.

    Raises: ValueError if they do not fit.
    """
    prefix = length - count - 1
    if not 1 <= count <= prefix or vocab < 3:
        raise ValueError(f"{count} tokens cannot be copied within {length}")
    content = torch.randint(vocab - 2, (rows, count), generator=generator)
    places = distinct(prefix, rows, count, generator=generator).sort(1).values
    x = torch.full((rows, length), vocab - 2).scatter(1, places, content)
    x[:, prefix] = vocab - 1
    y = torch.full_like(x, IGNORE)
    y[:, prefix + 1 :] = content
    return x, y


def compress(rows: int, vocab: int, length: int, *, generator: torch.Generator) -> Rows:
    """`length - 1` random tokens and the compression token V-1; the labels are the row itself."""
    x = torch.randint(vocab - 1, (rows, length), generator=generator)
    x[:, -1] = vocab - 1
    return x, x.clone()


def memory(vocab: int) -> Tensor:
    """The value of each key 0..V/2-2: distinct tokens of V/2-1..V-2, the same for ever."""
    count = vocab // 2 - 1
    values = torch.randperm(vocab // 2, generator=torch.Generator().manual_seed(MAP_SEED))
    return count + values[:count]


def memorize(rows: int, vocab: int, length: int, *, generator: torch.Generator) -> Rows:
    """Keys, each followed by the token V-1; the label there is the key's value of `memory`."""
    values = memory(vocab)
    keys = torch.randint(len(values), (rows, length // 2), generator=generator)
    x = torch.full((rows, length), vocab - 1)
    x[:, : 2 * keys.shape[1] : 2] = keys
    y = torch.full_like(x, IGNORE)
    y[:, 1 : 2 * keys.shape[1] : 2] = values[keys]
    return x, y
