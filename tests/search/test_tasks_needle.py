"""Needles and threads: a solver that only follows the pairs is always right; short cuts are not."""

import importlib
from dataclasses import replace

import pytest
import torch

from search.data import needle
from search.data.needle import ANSWER, FIRST, FLAG, QUESTION, Heap
from search.scores import IGNORE
from search.tasks import find, names

FAMILY = tuple(n for n in names() if n.startswith("needle_"))
Pairs = dict[int, list[tuple[int, int]]]


def _longest(pairs: Pairs, key: int) -> tuple[int, int, list[int]]:
    """(steps, last value, places) of the longest way from a key."""
    found = (0, key, [])
    for place, value in pairs.get(key, []):
        steps, end, places = _longest(pairs, value)
        found = max(found, (steps + 1, end, [place, *places]))
    return found


def _solve(row: list[int], heap: Heap, limit: int = 99) -> tuple[list[int], list[list[int]]]:
    """Answers and the places of the pairs on the way, read from the row up to its question."""
    question = row.index(QUESTION)
    width = 3 if heap.flagged else 2
    cells = [row[i : i + width] for i in range(0, question, width)]
    if heap.flagged:
        meant = [(i, cell) for i, cell in enumerate(cells) if cell[0] == FLAG]
        return [cell[2] for _, cell in meant], [[i] for i, _ in meant]
    pairs: Pairs = {}
    for place, (key, value) in enumerate(cells):
        pairs.setdefault(key, []).append((place, value))
    if limit == 1:
        return [pairs[k][0][1] for k in row[question + 1 : row.index(ANSWER)]], []
    ways = [_longest(pairs, key) for key in row[question + 1 : row.index(ANSWER)]]
    assert all(steps == heap.steps for steps, _, _ in ways)
    return [end for _, end, _ in ways], [places for _, _, places in ways]


def _rows(heap: Heap) -> list[tuple[list[int], list[int]]]:
    x, y = needle.generate(200, heap, generator=torch.Generator().manual_seed(2))
    assert x.shape == y.shape == (200, heap.length)
    assert int(x.max()) < heap.vocab
    return [(a, [t for t in b if t != IGNORE]) for a, b in zip(x.tolist(), y.tolist(), strict=True)]


@pytest.mark.parametrize("name", FAMILY)
def test_following_the_pairs_solves_a_shipped_task(name: str) -> None:
    assert len(FAMILY) == 7
    data = find(name).load(0)
    heap: Heap = importlib.import_module(f"search.tasks.{name}").HEAP
    for row, labels in zip(data.test.x[:300].tolist(), data.test.y[:300].tolist(), strict=True):
        wanted = labels[-heap.threads :]
        assert _solve(row, heap)[0] == wanted
        assert labels[: -heap.threads] == [IGNORE] * (heap.length - heap.threads)


@pytest.mark.parametrize(
    "heap", [Heap(steps=3), Heap(threads=3, steps=2), Heap(steps=3, branches=2)]
)
def test_one_step_alone_is_wrong_on_threads(heap: Heap) -> None:
    assert not any(_solve(row, heap, 1)[0] == wanted for row, wanted in _rows(heap))


def test_forward_threads_rise_and_backward_ones_fall() -> None:
    for row, _ in _rows(Heap(steps=5)):
        (places,) = _solve(row, Heap(steps=5))[1]
        assert places == sorted(places)
    heap = Heap(steps=5, direction="backward")
    for row, _ in _rows(heap):
        (places,) = _solve(row, heap)[1]
        assert places == sorted(places, reverse=True)
    heap = Heap(steps=3, direction="random")
    ways = [_solve(row, heap)[1][0] for row, _ in _rows(heap)]
    assert 10 < sum(way == sorted(way) for way in ways) < 60  # A sixth of 200 rises by chance.


def test_clustered_needles_are_neighbours_and_depth_sets_the_place() -> None:
    for heap in (Heap(threads=4, clustered=True), Heap(threads=4, clustered=True, flagged=True)):
        for row, wanted in _rows(heap):
            answers, places = _solve(row, heap)
            flat = [place for (place,) in places]
            assert answers == wanted
            assert max(flat) - min(flat) == 3
    for depth, place in ((0.0, 0), (0.5, 8), (1.0, 15)):
        heap = Heap(depth=depth)
        assert all(_solve(row, heap)[1] == [[place]] for row, _ in _rows(heap))


def test_symbols_differ_unless_a_thread_links_them() -> None:
    heap = Heap(threads=3, steps=2)
    for row, _ in _rows(heap):
        cells = row[: 2 * heap.pairs]
        assert len(set(cells)) == 2 * heap.pairs - 3
        assert min(cells) >= FIRST
    assert len({tuple(row) for row, _ in _rows(heap)}) == 200


@pytest.mark.parametrize(
    "change",
    [{"steps": 17}, {"symbols": 31}, {"steps": 2, "flagged": True}, {"threads": 2, "depth": 0.5}],
)
def test_a_heap_that_cannot_be_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"fit|need|one step|single needle"):
        replace(Heap(), **change)
