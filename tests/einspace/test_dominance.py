"""Dominance, ranks, crowding and hypervolume against their definitions, counted out."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from einspace.dominance import Point, crowding, dominates, fronts, hypervolume, order, standing

WHOLE = st.integers(0, 6)
SETS = st.integers(1, 4).flatmap(
    lambda axes: st.lists(st.tuples(*[WHOLE] * axes), min_size=1, max_size=24)
)


def _beaten(points: list[Point], within: set[int]) -> set[int]:
    """The indices that another of `within` dominates, by the definition."""
    return {
        i
        for i, j in itertools.permutations(within, 2)
        if all(b <= a for a, b in zip(points[i], points[j], strict=True))
        and any(b < a for a, b in zip(points[i], points[j], strict=True))
    }


@given(SETS)
def test_ranks_are_fronts_peeled_off_one_by_one(points: list[Point]) -> None:
    left, peeled = set(range(len(points))), []
    while left:
        beaten = _beaten(points, left)
        peeled.append(sorted(left - beaten))
        left = beaten
    assert fronts(points) == peeled


@given(SETS)
def test_dominance_is_a_strict_order(points: list[Point]) -> None:
    for a, b in itertools.product(points[:8], repeat=2):
        assert not (dominates(a, b) and dominates(b, a))
        assert not (dominates(a, b) and tuple(a) == tuple(b))


@given(st.lists(st.permutations(range(12)), min_size=2, max_size=3), st.integers(1, 12))
def test_crowding_is_the_gap_between_neighbours_over_the_range(
    axes: list[list[int]], size: int
) -> None:
    points = list(zip(*axes, strict=True))[:size]
    for point, found in zip(points, crowding(points), strict=True):
        wanted = 0.0
        for axis, value in enumerate(point):
            values = [p[axis] for p in points]
            below = [v for v in values if v < value]
            above = [v for v in values if v > value]
            if not below or not above:
                wanted = math.inf
            else:
                wanted += (min(above) - max(below)) / (max(values) - min(values))
        assert found == pytest.approx(wanted)


def test_points_that_are_all_the_same_are_crowded_but_for_two() -> None:
    assert crowding([(1.0, 2.0)] * 5) == [math.inf, 0.0, 0.0, 0.0, math.inf]
    assert crowding([]) == []


@given(SETS)
def test_the_order_goes_by_rank_then_crowding_then_the_first_objective_then_age(
    points: list[Point],
) -> None:
    found, by = order(points), standing(points)
    assert sorted(found) == list(range(len(points)))
    for first, second in itertools.pairwise(found):
        one, two = (by[first], tuple(points[first])), (by[second], tuple(points[second]))
        assert one < two or (one == two and first < second)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=20))
def test_with_one_objective_the_order_is_that_of_the_values(values: list[int]) -> None:
    assert [values[i] for i in order([(v,) for v in values])] == sorted(values)


@given(SETS)
def test_the_hypervolume_is_the_number_of_unit_cells_covered(points: list[Point]) -> None:
    axes = len(points[0])
    corner = (5.0,) * axes
    cells = sum(
        any(all(p <= c for p, c in zip(point, cell, strict=True)) for point in points)
        for cell in itertools.product(range(5), repeat=axes)
    )
    assert hypervolume(points, corner) == cells


@given(SETS)
def test_only_the_front_has_volume(points: list[Point]) -> None:
    corner = (7.0,) * len(points[0])
    front = [points[i] for i in fronts(points)[0]]
    assert hypervolume(front, corner) == hypervolume(points, corner)


def test_a_thousand_points_are_ranked_in_a_moment() -> None:
    points = [((i * 7919) % 1009, (i * 104729) % 997, (i * 31) % 13) for i in range(1000)]
    assert sum(map(len, fronts(points))) == 1000
