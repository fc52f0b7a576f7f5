"""Dominance among points of several numbers, all to be made small.

`a` dominates `b` when it is nowhere larger and somewhere smaller. Rank 0 (the front) is dominated
by nothing, rank r only by ranks below r. The crowding distance of a point of a front is the sum
over the objectives of the gap between its two neighbours there, divided by the front's range;
the ends of an objective count as infinite. Both as in Deb et al. 2002, "A fast and elitist
multiobjective genetic algorithm: NSGA-II", sections III-A and III-B.

The ranks are found by inserting points in lexicographic order, in which no later point dominates
an earlier one, each into the first front that holds nothing better (Zhang et al. 2015, "An
efficient approach to nondominated sorting"): the same ranks with fewer comparisons.
"""

import math
import operator
from collections.abc import Sequence
from typing import TypeAlias

Point: TypeAlias = Sequence[float]


def dominates(first: Point, second: Point) -> bool:
    """Whether `first` is nowhere larger than `second` and somewhere smaller."""
    return all(map(operator.le, first, second)) and tuple(first) != tuple(second)


def fronts(points: Sequence[Point]) -> list[list[int]]:
    """Indices by rank, the best rank first, ascending within a rank; equal points share one."""
    equal: dict[tuple[float, ...], list[int]] = {}
    for index, point in enumerate(points):
        equal.setdefault(tuple(point), []).append(index)
    found: list[list[tuple[float, ...]]] = []
    for point in sorted(equal):
        for members in found:
            # The latest members are the nearest in the first objective, so the likeliest to be
            # better in the others.
            if not any(dominates(member, point) for member in reversed(members)):
                members.append(point)
                break
        else:
            found.append([point])
    return [sorted(i for point in members for i in equal[point]) for members in found]


def crowding(points: Sequence[Point]) -> list[float]:
    """The crowding distance of each point of one front."""
    distance = [0.0] * len(points)
    for axis in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda i: (points[i][axis], i))
        low, high = points[order[0]][axis], points[order[-1]][axis]
        distance[order[0]] = distance[order[-1]] = math.inf
        if high == low:
            continue
        for below, here, above in zip(order, order[1:], order[2:], strict=False):
            distance[here] += (points[above][axis] - points[below][axis]) / (high - low)
    return distance


def standing(points: Sequence[Point]) -> list[tuple[int, float]]:
    """(rank, minus the crowding distance) of each point: the smaller, the better."""
    found: list[tuple[int, float]] = [(0, 0.0)] * len(points)
    for rank, members in enumerate(fronts(points)):
        for index, distance in zip(members, crowding([points[i] for i in members]), strict=True):
            found[index] = (rank, -distance)
    return found


def order(points: Sequence[Point]) -> list[int]:
    """Indices from best to worst: by rank, then the less crowded, then the better in the first
    objective (in the next at a tie, and so on), then the earlier.

    Ends of a front are all infinitely far apart, so the last two decide often in small sets.
    """
    by = standing(points)
    return sorted(range(len(points)), key=lambda i: (by[i], tuple(points[i]), i))


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The volume that the points dominate below `reference`; exact, meant for small sets.

    Slices along the last axis: between two neighbouring values there, the volume is that of the
    points below it in the remaining axes, times the gap. Points not below the reference add none.
    """
    inside = [p for p in points if all(a < b for a, b in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(p[0] for p in inside)
    inside.sort(key=lambda p: p[-1])
    tops = [*(p[-1] for p in inside[1:]), reference[-1]]
    volume = 0.0
    for count, (point, top) in enumerate(zip(inside, tops, strict=True), start=1):
        if top > point[-1]:
            below = [p[:-1] for p in inside[:count]]
            volume += (top - point[-1]) * hypervolume(below, reference[:-1])
    return volume
