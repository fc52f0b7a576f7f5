"""Shakespeare by characters: 42 plays and poems in modern spelling, 5 MB, 84 distinct bytes.

The works are sorted by file name and joined. Test is the last tenth; validation the last tenth of
what remains, rounded up to whole windows; training the rest. A window is 128 characters with the
128 that follow each of them. Validation and test use windows that do not overlap, so every
character is predicted exactly once, the first of a window from one character alone (the one before
it, for the first of a part the last of the part before).

Training windows start anywhere. The search validates on the first 100,096 characters of the
validation part; the final training reads both parts and measures the whole test.
Bits a character on the test part: unigram 4.803, order 2 2.941, order 4 2.408.
"""

import torch
from torch import Tensor

from einspace.interface import Interface
from grammar.errors import DataError
from ops.spec import seq, tokens
from search.data import package
from search.scores import IGNORE, bits, cross_entropy
from search.task import Budget, Data, Split, Task

SHA256 = "da68ca4e8201d41a12c1d5e82d967bda85105f1dabe823d5735138bccabdd387"
WORKS = 42
WINDOW = 128
ALPHABET = b"\n !\"&'()*,-./0123456789:;?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]_abcdefghijklmnopqrstuvwxyz{}"


def load(seed: int) -> Data:
    """Train, validation and test in order of the text; the seed changes nothing."""
    found = package.read("shakespeare", package.names("shakespeare", _modern), SHA256)
    ids = encode(found.content)
    count = len(ids)
    test_at = count - count // 10
    val_at = test_at - -(-(test_at // 10) // WINDOW) * WINDOW
    # Windows of the training part end where validation starts; the odd characters at the very
    # beginning of the text are dropped.
    train = _windows(ids, 1 + (val_at - 1) % WINDOW, val_at)
    return Data(
        train,
        _windows(ids, val_at, test_at),
        _windows(ids, test_at, count),
        found.provenance,
        found.sha256,
        "works public domain, edition CC BY 2.5, package MIT",
    )


def _modern(path: str) -> bool:
    return path.endswith("_gut.txt")


def encode(text: bytes) -> Tensor:
    """Ids 0..83. Raises: DataError on a byte outside the alphabet."""
    table = torch.full((256,), -1)
    table[list(ALPHABET)] = torch.arange(len(ALPHABET))
    ids = table[torch.frombuffer(bytearray(text), dtype=torch.uint8).long()]
    if bool((ids < 0).any()):
        raise DataError("the text holds a byte outside the alphabet of this task")
    return ids


def _windows(ids: Tensor, start: int, end: int) -> Split:
    """Windows whose targets are the characters start..end-1; the last one filled up, unlabelled."""
    x, y = ids[start - 1 : end - 1], ids[start:end]
    missing = -len(y) % WINDOW
    if missing:
        x = torch.cat([x, x.new_zeros(missing)])
        y = torch.cat([y, y.new_full((missing,), IGNORE)])
    return Split(x.view(-1, WINDOW), y.view(-1, WINDOW))


def random_windows(part: Split, generator: torch.Generator, size: int) -> tuple[Tensor, Tensor]:
    """`size` windows that start anywhere in the part, which is read as one stream."""
    x, y = part.x.flatten(), part.y.flatten()
    start = torch.randint(
        len(x) - WINDOW + 1, (size, 1), generator=generator, device=generator.device
    )
    at = start + torch.arange(WINDOW, device=generator.device)
    return x[at], y[at]


TASK = Task(
    name="shakespeare",
    about="next character of Shakespeare, 128 characters of context, 84 symbols (5 MB)",
    interface=Interface(
        {"x": tokens(WINDOW, len(ALPHABET))}, target=seq(WINDOW, len(ALPHABET)), causal=True
    ),
    metric="bpc",
    direction="minimize",
    budget=Budget(epochs=6, min_epochs=2, batch=16, max_params=1_000_000, max_flops=48_000_000),
    load=load,
    loss=cross_entropy,
    score=bits,
    steps_per_epoch=100,
    batch=random_windows,
    val_items=782,
)
