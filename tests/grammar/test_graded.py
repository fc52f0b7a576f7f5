"""Series over forests with cycles, against what is known of them."""

import math

import pytest

from grammar.errors import SpaceError
from grammar.exact_state import Edge, Vertex
from grammar.graded import BEST, COUNT, LOG, Graded, least

CATALAN = (1, 1, 2, 5, 14, 42)


def pairs(share: float) -> Vertex:
    """v = leaf | v v, where a leaf is one free node."""
    vertex = Vertex([])
    vertex.edges = [(share, 0, 1, 0, 1, ()), (1 - share, 1, 0, 0, 1, (vertex, vertex))]
    return vertex


def test_binary_trees_are_counted_by_their_leaves() -> None:
    root = pairs(0.5)
    assert least(root) == {root: 1}
    assert Graded(root, least(root), 6, COUNT).row() == dict(enumerate(CATALAN, 1))


def test_masses_weigh_every_tree_alike() -> None:
    root = pairs(0.3)
    for n, log in Graded(root, least(root), 6, LOG).row().items():
        known = CATALAN[n - 1] * 0.3**n * 0.7 ** (n - 1)
        assert log == pytest.approx(math.log(known), abs=1e-12)


def test_the_best_picks_are_those_of_the_greatest_weight() -> None:
    leaf = Vertex([(0.2, 0, 1, 0, 1, ()), (0.8, 1, 2, 0, 1, ())])
    root = Vertex([(1.0, -1, 0, 0, 1, (leaf, leaf))])
    best = Graded(root, least(root), 4, BEST)
    assert [best.picks(n) for n in (2, 4)] == [(0, 0), (1, 1)]
    assert best.row()[3] == pytest.approx(math.log(0.2 * 0.8))
    assert sorted(best.picks(3)) == [0, 1]


def test_copies_count_as_often_as_they_stand() -> None:
    leaf = Vertex([(0.5, 0, 1, 0, 1, ()), (0.5, 1, 2, 0, 1, ())])
    root = Vertex([(1.0, -1, 1, 0, 3, (leaf,))])
    counts = Graded(root, least(root), 8, COUNT).row()
    assert {n: c for n, c in counts.items() if c} == {4: 1, 7: 1}
    masses = Graded(root, least(root), 8, LOG).row()
    assert masses[7] == pytest.approx(math.log(0.5))
    assert masses[5] == -math.inf


def test_a_cycle_without_a_free_node_is_told() -> None:
    root = Vertex([])
    idle: Edge = (0.5, 1, 0, 0, 1, (root,))
    root.edges = [(0.5, 0, 1, 0, 1, ()), idle]
    with pytest.raises(SpaceError, match="without an op in between"):
        Graded(root, least(root), 3, COUNT)


def test_what_derives_nothing_has_no_series() -> None:
    lost = Vertex([])
    lost.edges = [(1.0, 0, 0, 0, 1, (lost,))]
    root = Vertex([(0.5, 0, 1, 0, 1, ()), (0.5, 1, 0, 0, 1, (lost,))])
    assert lost not in least(root)
    assert Graded(root, least(root), 2, COUNT).row() == {1: 1, 2: 0}
