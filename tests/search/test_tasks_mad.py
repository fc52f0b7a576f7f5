"""MAD's six tasks: a solver that reads only the tokens before a label is always right."""

import pytest
import torch

from search.data import mad
from search.scores import IGNORE
from search.task import Split
from search.tasks import find, mad_copy, mad_fuzzy, mad_memorize, mad_noisy

RECALLS = ("mad_recall", "mad_noisy", "mad_fuzzy")


def _dictionary(row: list[int], keys: int, values: int) -> list[int | None]:
    """The next token at each place, where an earlier pair with the same key says it.

    Keys are runs of tokens below `keys`, values the runs that follow, below `values`.
    """
    memory: dict[tuple[int, ...], list[int]] = {}
    answers: list[int | None] = []
    key: list[int] = []
    value: list[int] = []
    for token in row:
        if token < keys:
            if value or not key:
                _keep(memory, key, value)
                key, value = [], []
            key.append(token)
        elif token < values:
            value.append(token)
        known = memory.get(tuple(key), [])
        answers.append(known[len(value)] if len(value) < len(known) else None)
    return answers


def _keep(memory: dict[tuple[int, ...], list[int]], key: list[int], value: list[int]) -> None:
    if key and value:
        memory.setdefault(tuple(key), value)


def _right(part: Split, keys: int, values: int) -> float:
    hits = total = 0
    for row, labels in zip(part.x[:200].tolist(), part.y[:200].tolist(), strict=True):
        answers = _dictionary(row, keys, values)
        pairs = [(a, b) for a, b in zip(answers, labels, strict=True) if b != IGNORE]
        hits, total = hits + sum(a == b for a, b in pairs), total + len(pairs)
    assert total >= 200
    return hits / total


@pytest.mark.parametrize(("name", "keys", "values"), [(RECALLS[0], 8, 16), (RECALLS[2], 7, 15)])
def test_a_dictionary_solves_recall_and_one_of_the_wrong_keys_does_not(
    name: str, keys: int, values: int
) -> None:
    part = find(name).load(0).test
    assert _right(part, keys, values) == 1.0
    assert _right(Split(part.x.flip(0), part.y), keys, values) < 0.6


def test_a_dictionary_solves_noisy_recall_and_noise_is_a_fifth() -> None:
    data = find("mad_noisy").load(0)
    # Noise tokens neither start nor end a key in the solver: single-token keys are overwritten.
    hits = total = 0
    for row, labels in zip(data.val.x[:200].tolist(), data.val.y[:200].tolist(), strict=True):
        memory: dict[int, int] = {}
        for key, value, label in zip(row[::2], row[1::2], labels[::2], strict=True):
            if label != IGNORE:
                hits, total = hits + (memory[key] == label), total + 1
            if key < 8:
                assert memory.setdefault(key, value) == value
    assert hits == total > 5000
    first = data.train.x[:, :-2:2]
    share = float((first >= 16).float().mean())
    assert share == pytest.approx(mad_noisy.NOISE * 62 / 63, abs=0.005)
    assert bool(((data.train.x[:, ::2] >= 16) == (data.train.x[:, 1::2] >= 16)).all())


@pytest.mark.parametrize("name", RECALLS)
def test_training_labels_are_next_tokens_and_the_last_value_is_always_asked(name: str) -> None:
    data = find(name).load(0)
    x, y = data.train.x, data.train.y
    assert bool((y[:, -1] == IGNORE).all())
    told = y[:, :-1] != IGNORE
    assert torch.equal(y[:, :-1][told], x[:, 1:][told])
    pad = 15 if name == "mad_fuzzy" else -1
    assert torch.equal(told, x[:, 1:] != pad)
    assert bool((data.test.y[:, -2] != IGNORE).all())
    assert float((data.test.y != IGNORE).float().mean()) < 0.6 * float(told.float().mean())


def test_fuzzy_keys_have_three_tokens_in_the_test_and_one_to_three_in_training() -> None:
    data = find("mad_fuzzy").load(0)
    for part, wanted in ((data.train, {1, 2, 3}), (data.test, {3})):
        found = set()
        for row in part.x[:100].tolist():
            # A value stands between two keys, so runs of key tokens are whole keys.
            words = "".join("k" if t < 7 else "v" if t < 15 else " " for t in row).strip()
            assert " " not in words
            runs = words.replace("v", " ").split()
            assert len(runs) == mad_fuzzy.LENGTH // 6
            found |= {len(run) for run in runs}
        assert found == wanted


def test_copying_wants_the_tokens_among_the_blanks_in_order() -> None:
    part = find("mad_copy").load(0).val
    start = mad_copy.LENGTH - mad_copy.COUNT
    for row, labels in zip(part.x[:200].tolist(), part.y[:200].tolist(), strict=True):
        assert [t for t in row[: start - 1] if t != 14] == labels[start:]
        assert row[start - 1 :] == [15] + [14] * mad_copy.COUNT
        assert labels[:start] == [IGNORE] * start
    places = (part.x[:, : start - 1] != 14).float().mean(0)
    assert abs(float(places[:120].mean() - places[119:].mean())) < 0.01


def test_the_memorized_map_is_one_for_all_parts_and_seeds() -> None:
    first, other = find("mad_memorize").load(0), find("mad_memorize").load(5)
    values = mad.memory(mad_memorize.VOCAB)
    assert len(values) == len(values.unique()) == 127
    assert 127 <= int(values.min()) <= int(values.max()) <= 254
    for part in (first.train, first.test, other.val):
        assert torch.equal(part.y[:, 1::2], values[part.x[:, ::2]])
        assert bool((part.x[:, 1::2] == 255).all())
        assert bool((part.y[:, ::2] == IGNORE).all())
    assert not torch.equal(first.test.x, other.test.x)


def test_compression_wants_the_row_itself() -> None:
    part = find("mad_compress").load(0).test
    assert torch.equal(part.x, part.y)
    assert bool((part.x[:, -1] == 15).all())
    assert int(part.x[:, :-1].max()) == 14


def test_what_does_not_fit_is_refused() -> None:
    generator = torch.Generator()
    with pytest.raises(ValueError, match="no recall"):
        mad.recall(2, 16, 5, all_labels=True, generator=generator)
    with pytest.raises(ValueError, match="no motifs"):
        mad.fuzzy(2, 6, 128, training=True, generator=generator)
    with pytest.raises(ValueError, match="cannot be copied"):
        mad.copy(2, 16, 20, 16, generator=generator)
