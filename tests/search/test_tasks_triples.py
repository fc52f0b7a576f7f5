"""addmnist and multmnist: every answer right, classes balanced, no digit in two parts."""

import pytest
import torch

from grammar.errors import DataError
from search.data import triples
from search.task import Data, Split
from search.tasks import addmnist, find, mnist5k, multmnist


def _load(name: str, seed: int = 0) -> Data:
    try:
        return find(name).load(seed)
    except DataError as error:
        if "is not installed" in error.message:
            pytest.skip(f"{error.message}: {error.hint}")
        raise


def _digit_of(data: Data) -> list[dict[bytes, int]]:
    """For train, validation and test: the digit that each image of MNIST-5k shows."""
    return [
        {row.numpy().tobytes(): int(y) for row, y in zip(part.x, part.y, strict=True)}
        for part in (data.train, data.val, data.test)
    ]


@pytest.mark.parametrize(
    ("name", "classes", "sizes"),
    [("addmnist", 20, (4000, 1000, 2000)), ("multmnist", 10, (4000, 1000, 2000))],
)
def test_labels_are_the_arithmetic_of_digits_from_disjoint_images(
    name: str, classes: int, sizes: tuple[int, ...]
) -> None:
    data = _load(name)
    known = _digit_of(mnist5k.load(0))
    answer = {"addmnist": addmnist.answer, "multmnist": multmnist.answer}[name]
    for part, digits, size in zip((data.train, data.val, data.test), known, sizes, strict=True):
        assert part.x.shape == (size, 3, 28, 28)
        assert torch.bincount(part.y).tolist() == [size // classes] * classes
        for row, label in zip(part.x[:300], part.y[:300].tolist(), strict=True):
            # A KeyError here would mean that a digit comes from another part's images.
            a, b, c = (digits[channel.unsqueeze(0).numpy().tobytes()] for channel in row)
            assert answer(a, b, c) == label


def test_the_sum_starts_at_one_and_ends_at_twenty() -> None:
    table = triples.answers(addmnist.answer)
    assert table[0, 0, 0] == -1
    assert table[9, 9, 9] == table[7, 7, 7] == -1
    assert (table[0, 0, 1], table[9, 9, 2], table[4, 5, 6]) == (0, 19, 14)
    # Sums 21 to 27 leave 27 - s to be spread over three digits: 28, 21, ... 1 ways.
    assert int((table >= 0).sum()) == 1000 - 1 - sum(k * (k + 1) // 2 for k in range(1, 8))


def test_the_product_keeps_its_last_digit() -> None:
    table = triples.answers(multmnist.answer)
    assert (table[3, 7, 9], table[2, 5, 9], table[0, 8, 8]) == (9, 0, 0)
    assert int((table == 0).sum()) == 427


def test_seeds_draw_other_triples_of_the_same_digits() -> None:
    first, again, other = _load("addmnist"), _load("addmnist"), _load("addmnist", 1)
    assert torch.equal(first.test.x, again.test.x)
    assert not torch.equal(first.test.x, other.test.x)
    assert first.sha256 == again.sha256 != other.sha256


def test_triples_are_drawn_evenly_within_a_class() -> None:
    digits = Split(torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 28, 28), torch.arange(10))
    generator = torch.Generator().manual_seed(0)
    part = triples.generate(digits, addmnist.answer, 3, 6000, generator=generator)
    shown = part.x[part.y == 2][:, :, 0, 0]  # Ten triples have sum 3.
    code = (shown * torch.tensor([100.0, 10.0, 1.0])).sum(1)
    counts = code.unique(return_counts=True)[1]
    assert len(counts) == 10
    assert 500 < int(counts.min()) <= int(counts.max()) < 700


def test_each_digit_moves_by_itself() -> None:
    x = torch.zeros(200, 3, 28, 28)
    x[:, :, 14, 14] = 1.0
    moved = triples.jitter(x, torch.Generator().manual_seed(0)).flatten(2).argmax(2)
    assert bool((moved[:, 0] != moved[:, 1]).any())
    assert len(moved.unique()) == 25


def test_a_class_without_triples_and_a_digit_without_images_are_refused() -> None:
    digits = Split(torch.zeros(10, 1, 28, 28), torch.arange(10))
    with pytest.raises(ValueError, match="no three digits give class 0"):
        triples.generate(digits, lambda a, b, c: None, 1, 1, generator=torch.Generator())
    with pytest.raises(ValueError, match="no image"):
        triples.generate(
            Split(digits.x[1:], digits.y[1:]), addmnist.answer, 1, 1, generator=torch.Generator()
        )
