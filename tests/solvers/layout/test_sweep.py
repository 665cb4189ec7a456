from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roam.solvers.answer import Outcome
from roam.solvers.layout.greedy_fits import Rect
from roam.solvers.layout.packing.generate import GRAIN, cut_strip, spoil
from roam.solvers.layout.packing.instance import check_packing, height, max_load
from roam.solvers.layout.packing.pack import pack
from roam.solvers.layout.packing.pq_tree import Tree, bits, frontier, gather, join, leaf, runs
from roam.solvers.layout.packing.sweep import holes, sweep

STRIP = 2**20


def orders(tree: Tree) -> Iterator[tuple[int, ...]]:
    """Every order that a tree stands for."""
    if not tree.children:
        yield tuple(bits(tree.leaves))
        return
    every = tree.children
    for row in (every, every[::-1]) if tree.ordered else permutations(every):
        rest: list[tuple[int, ...]] = [()]
        for child in row:
            rest = [(*before, *o) for before in rest for o in orders(child)]
        yield from rest


def consecutive(order: tuple[int, ...], some: int) -> bool:
    at = [i for i, x in enumerate(order) if some >> x & 1]
    return at[-1] - at[0] == len(at) - 1


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6), st.lists(st.integers(1, 63), max_size=5))
def test_a_tree_holds_all_orders_in_which_the_sets_are_consecutive(n: int, sets: list[int]) -> None:
    """By brute force. A set that was gathered becomes one leaf, its first."""
    tree = join([leaf(i, i) for i in range(n)])
    allowed = set(permutations(range(n)))
    for some in sets:
        some &= tree.leaves
        if not some:
            continue
        for run in runs(tree, some):
            assert all(consecutive(o, run) for o in allowed)
        first = next(bits(some))
        allowed = {o for o in allowed if consecutive(o, some)}
        found = gather(tree, some, leaf(first, first))
        assert (found is None) == (not allowed)
        if found is None:
            return
        tree = found.tree
        allowed = {tuple(x for x in o if x == first or not some >> x & 1) for o in allowed}
        assert set(orders(tree)) == allowed
        assert next(frontier(tree)) in tree_leaves(tree)


def tree_leaves(tree: Tree) -> set[int]:
    return set(bits(tree.leaves))


def test_a_pinwheel_is_put_together() -> None:
    """No straight cut takes it apart, and there is one way, up to turning it over."""
    rects = [Rect(0, 5, 2), Rect(5, 7, 6), Rect(3, 7, 3), Rect(0, 3, 7), Rect(3, 5, 4)]
    found, nodes = sweep(rects, 9, beam=1)
    assert found in ([0, 0, 6, 2, 2], [7, 3, 0, 0, 3])
    assert nodes == 2


def test_what_is_empty_is_a_rectangle_like_others() -> None:
    rects = [Rect(0, 4, 5), Rect(4, 9, 3), Rect(0, 2, 4), Rect(3, 9, 4), Rect(6, 9, 2)]
    filled = holes(rects, 9)
    assert sorted((r.lower, r.upper, r.size) for r in filled) == [(2, 3, 4), (4, 6, 2)]
    found, _ = sweep(rects, 9, beam=1)
    assert found is not None
    check_packing(rects, found)
    assert height(rects, found) == 9


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4), st.integers(1, 5)), min_size=1),
    st.integers(0, 3),
)
def test_a_sweep_is_sound_whatever_is_wasted(drawn: list[tuple[int, int, int]], slack: int) -> None:
    rects = [Rect(lower, lower + time, size) for lower, time, size in drawn]
    capacity = max_load(rects) + slack
    filled = [*rects, *holes(rects, capacity)]
    moments = range(min(r.lower for r in rects), max(r.upper for r in rects))
    assert all(sum(r.size for r in filled if r.lower <= t < r.upper) == capacity for t in moments)
    found, _ = sweep(rects, capacity, beam=4)
    if found is not None:
        check_packing(rects, found)
        assert height(rects, found) <= capacity


@pytest.mark.parametrize(
    ("n", "times", "seed"), [(500, 1000, 0), (500, 1000, 1), (1000, 10**6, 2), (2000, 10**6, 0)]
)
def test_a_sweep_solves_what_a_search_cannot(n: int, times: int, seed: int) -> None:
    packing = pack(cut_strip(n, times, STRIP, seed), node_limit=5_000)
    assert (packing.status, packing.value, packing.found.method) == (
        Outcome.OPTIMAL,
        STRIP,
        "sweep",
    )


@pytest.mark.parametrize(("grain", "pinwheels"), [(GRAIN, 0.0), (GRAIN, 0.8), (STRIP // 1024, 0.2)])
def test_strips_of_other_kinds(grain: int, pinwheels: float) -> None:
    rects = cut_strip(500, 1000, STRIP, 1, grain=grain, pinwheels=pinwheels)
    assert sum(r.size * (r.upper - r.lower) for r in rects) == 1000 * STRIP
    packing = pack(rects, node_limit=10_000)
    assert packing.value == STRIP


@pytest.mark.parametrize("seed", range(2))
def test_a_spoiled_strip(seed: int) -> None:
    whole = cut_strip(500, 1000, STRIP, seed)
    rects = spoil(whole, 0.03, seed)
    assert max_load(rects) <= STRIP
    assert 0 < len(whole) - len(rects) < 15
    packing = pack(rects, node_limit=10_000)
    assert (packing.status, packing.found.method) == (Outcome.OPTIMAL, "sweep")


def test_the_same_forwards_and_backwards_and_in_another_order() -> None:
    rects = cut_strip(300, 600, STRIP, 0)
    turned = [Rect(-2 * r.upper, -2 * r.lower, r.size) for r in reversed(rects)]
    for some in (rects, turned):
        assert pack(some, node_limit=5_000).value == STRIP
