from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ortools.sat.python import cp_model

from roam.core.errors import OffsetError, OverlapError
from roam.solvers.answer import Answer, Outcome
from roam.solvers.layout.greedy_fits import FITS, Rect, place
from roam.solvers.layout.packing import search
from roam.solvers.layout.packing.generate import cut_strip, spoil
from roam.solvers.layout.packing.instance import (
    check_packing,
    height,
    max_load,
    read_csv,
    to_items,
    touches,
)
from roam.solvers.layout.packing.lines import area, on_the_lowest_line
from roam.solvers.layout.packing.pack import A_TABLE_TOUCH, Packing, _Packer, pack
from roam.solvers.layout.packing.sweep import holes, sweep
from roam.solvers.work import Work
from tests.solvers.layout.rectangles import KNOTS, crowd, rectangles

MINIMALLOC = Path(__file__).parents[2] / "instances" / "minimalloc"
CAPACITY = 2**20


def brute_force(rects: list[Rect], capacity: int) -> bool:
    """Whether everything fits: every offset of every rectangle, in turn.

    The rectangle with the fewest offsets left comes next.
    """

    def clear(r: Rect, o: int, placed: Rect, at: int) -> bool:
        apart = r.upper <= placed.lower or placed.upper <= r.lower
        return apart or o + r.size <= at or at + placed.size <= o

    def fits(left: list[tuple[Rect, list[int]]]) -> bool:
        if not left:
            return True
        rect, offsets = min(left, key=lambda each: len(each[1]))
        rest = [each for each in left if each[0] is not rect]
        return any(
            fits([(r, [o for o in there if clear(r, o, rect, at)]) for r, there in rest])
            for at in offsets
        )

    left = []
    for lower, upper, size, align, fixed in (r for r in rects if r.size):
        offsets = range(0, capacity - size + 1, align) if fixed is None else [fixed]
        rect = Rect(lower, upper, size)  # an object of its own
        left.append((rect, [o for o in offsets if o + size <= capacity]))
    return fits(left)


def assert_lowest(rects: list[Rect], packing: Answer[Packing]) -> None:
    """It is valid, and not even one byte less would do."""
    check_packing(rects, packing.found.offsets)
    assert packing.status is Outcome.OPTIMAL
    assert packing.value == height(rects, packing.found.offsets)
    assert not packing.value or not brute_force(rects, packing.value - 1)


@settings(max_examples=100, deadline=None)
@given(rectangles())
def test_no_packing_is_lower(rects: list[Rect]) -> None:
    assert_lowest(rects, pack(rects))


@settings(max_examples=60, deadline=None)
@given(rectangles(align=(1, 2, 3), most=6))
def test_no_packing_is_lower_where_addresses_are_aligned(rects: list[Rect]) -> None:
    assert_lowest(rects, pack(rects))


@settings(max_examples=60, deadline=None)
@given(rectangles(most=6), rectangles(most=3), st.data())
def test_no_packing_is_lower_around_what_is_fixed(
    free: list[Rect], there: list[Rect], data: st.DataObject
) -> None:
    fixed: list[Rect] = []
    for r in there:
        at = data.draw(st.integers(0, 8))
        new = Rect(r.lower, r.upper, r.size, 1, at)
        try:
            check_packing([*fixed, new], [q.fixed or 0 for q in [*fixed, new]])
        except OverlapError:
            continue
        fixed.append(new)
    packing = pack(free + fixed)
    assert packing.found.offsets[len(free) :] == tuple(r.fixed for r in fixed)
    assert_lowest(free + fixed, packing)


@settings(max_examples=60, deadline=None)
@given(rectangles(), st.integers(0, 20))
def test_the_question_of_capacity(rects: list[Rect], capacity: int) -> None:
    packing = pack(rects, capacity)
    fits = brute_force(rects, capacity)
    assert packing.status is (Outcome.FITS if fits else Outcome.DOES_NOT_FIT)
    assert (packing.value <= capacity) == fits
    assert (packing.bound > capacity) == (not fits)


@pytest.mark.parametrize(("name", "nodes"), [("A", 20_000), ("E", 5_000), ("K", 20_000)])
def test_minimalloc(name: str, nodes: int) -> None:
    instance = read_csv((MINIMALLOC / f"{name}.{CAPACITY}.csv").read_text())
    packing = pack(instance.rects, CAPACITY, node_limit=nodes)
    assert packing.status is Outcome.FITS
    check_packing(instance.rects, packing.found.offsets)
    assert packing.value <= CAPACITY


def test_minimalloc_in_other_words() -> None:
    """Time runs backwards and takes twice as long, the buffers come in another order."""
    rects = read_csv((MINIMALLOC / f"K.{CAPACITY}.csv").read_text()).rects
    mirrored = [Rect(-2 * r.upper, -2 * r.lower, r.size) for r in reversed(rects)]
    assert pack(mirrored, CAPACITY, node_limit=200_000).status is Outcome.FITS


def test_parts_of_time_are_packed_apart() -> None:
    """A knot, and after it an instance with more load, below which it is enough to stay."""
    knot = crowd(KNOTS[0])
    high = [Rect(100, 101, 3), Rect(100, 102, max_load(knot) + 4)]
    alone = pack(knot)
    together = pack(knot + high)
    assert together.value == max_load(high) > alone.value > max_load(knot)
    assert together.work < alone.work
    low = [Rect(100, 101, 1)]
    assert pack(knot + low).found.offsets[: len(knot)] == alone.found.offsets
    assert pack(knot + low, max_load(knot)).status is Outcome.DOES_NOT_FIT


def test_the_same_packing_every_time() -> None:
    rects = read_csv((MINIMALLOC / f"A.{CAPACITY}.csv").read_text()).rects
    first, second = (pack(rects, node_limit=20_000) for _ in range(2))
    assert (first.found, first.work) == (second.found, second.work)


def test_no_time_left() -> None:
    rects = read_csv((MINIMALLOC / f"A.{CAPACITY}.csv").read_text()).rects
    packing = pack(rects, CAPACITY, work=Work(deadline=0))
    check_packing(rects, packing.found.offsets)
    assert packing.status is Outcome.UNKNOWN
    assert packing.value > CAPACITY
    assert packing.work <= 2_000


def test_no_more_nodes_than_allowed() -> None:
    rects = read_csv((MINIMALLOC / f"A.{CAPACITY}.csv").read_text()).rects
    packing = pack(rects, node_limit=30)
    assert packing.work == 30
    assert packing.status is Outcome.FEASIBLE


def test_the_search_without_numba() -> None:
    """The same source, interpreted: the same answer after as many nodes."""
    if not hasattr(search.search, "py_func"):
        pytest.skip("numba is not installed: everything here is interpreted")
    rects = read_csv((MINIMALLOC / f"E.{CAPACITY}.csv").read_text()).rects[:40]
    items, _ = to_items(rects)
    rank = np.arange(len(items.lower))
    found = []
    for run in (search.search, search.search.py_func):
        failed, reasons = np.zeros(2**8, np.uint64), np.zeros((2**8, 8), np.uint64)
        offsets = np.zeros(len(items.lower), np.int64)
        words = (len(items.first) - 1 + 63) // 64
        with np.errstate(over="ignore"):
            end = run(items, max_load(rects), rank, 100, failed, reasons[:, :words], offsets)
        found.append((end, offsets.tolist()))
    assert found[0] == found[1]


def test_nothing_to_pack() -> None:
    packing = pack([])
    assert (packing.found.offsets, packing.value, packing.status) == ((), 0, Outcome.OPTIMAL)
    assert pack([Rect(0, 1, 0)], 0).status is Outcome.FITS


def test_too_much_at_once_does_not_fit() -> None:
    packing = pack([Rect(0, 2, 6), Rect(1, 3, 5)], 10)
    assert (packing.status, packing.bound, packing.work) == (Outcome.DOES_NOT_FIT, 11, 0)


def test_fixed_offsets_that_contradict_themselves() -> None:
    with pytest.raises(OverlapError):
        pack([Rect(0, 2, 10, 1, 0), Rect(1, 3, 10, 1, 5)])
    with pytest.raises(OffsetError):
        pack([Rect(0, 2, 10, 64, 8)])


def fits_by_cp_sat(rects: list[Rect], capacity: int) -> bool:
    model = cp_model.CpModel()
    times, addresses = [], []
    for r in rects:
        offset = model.new_int_var(0, capacity - r.size, "")
        times.append(model.new_fixed_size_interval_var(r.lower, r.upper - r.lower, ""))
        addresses.append(model.new_fixed_size_interval_var(offset, r.size, ""))
    model.add_no_overlap_2d(times, addresses)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    status = solver.solve(model)
    assert status in (cp_model.OPTIMAL, cp_model.FEASIBLE, cp_model.INFEASIBLE)
    return status != cp_model.INFEASIBLE


@pytest.mark.parametrize("seed", [*KNOTS, *range(8)])
def test_cp_sat_says_the_same(seed: int) -> None:
    rects = crowd(seed)
    packing = pack(rects)
    assert packing.status is Outcome.OPTIMAL
    assert (packing.value > max_load(rects)) == (seed in KNOTS)
    assert fits_by_cp_sat(rects, packing.value)
    assert not fits_by_cp_sat(rects, packing.value - 1)


def ask(rects: Sequence[Rect], entries: int = 2**16) -> tuple[int, int]:
    """The search itself, at the largest load."""
    items, _ = to_items(rects)
    n = len(items.lower)
    failed, reasons = np.zeros(entries, np.uint64), np.zeros((entries, 8), np.uint64)
    reasons = reasons[:, : (len(items.first) - 1 + 63) // 64]
    rank, offsets = np.arange(n), np.zeros(n, np.int64)
    return search.search(items, max_load(rects), rank, 10**7, failed, reasons, offsets)


def test_memory_saves_work() -> None:
    """With one entry, which the next failure overwrites, the proofs are the same, and longer."""
    with_memory, without = [[ask(crowd(seed), entries) for seed in KNOTS] for entries in (2**16, 1)]
    assert {outcome for outcome, _ in with_memory + without} == {search.DOES_NOT_FIT}
    assert sum(n for _, n in with_memory) < 0.8 * sum(n for _, n in without)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("n", "times"), [(50, 100), (100, 10**6), (200, 10**6)])
def test_cut_strips_are_put_together_again(n: int, times: int, seed: int) -> None:
    rects = cut_strip(n, times, CAPACITY, seed)
    assert sum(r.size * (r.upper - r.lower) for r in rects) == times * CAPACITY
    packing = pack(rects, node_limit=50_000)
    assert (packing.status, packing.value) == (Outcome.OPTIMAL, CAPACITY)


@pytest.mark.parametrize("over", [{"limit": 0}, {"deadline": 0.0}])
def test_only_the_first_fit_goes_beyond_the_work(over: dict[str, float]) -> None:
    """Also where the work ends in the middle of a fit, a line or the search for holes."""
    rects = crowd(3)
    room = max_load(rects)
    for late in (
        lambda: place(rects, FITS[0], work=Work(**over)),
        lambda: on_the_lowest_line(rects, area, Work(**over)),
        lambda: holes(rects, room, Work(**over)),
    ):
        with pytest.raises(TimeoutError):
            late()
    assert sweep(rects, room, 4, work=Work(**over)) == (None, 0)
    answer = pack(rects, work=Work(**over))
    assert (answer.found.method, answer.work) == (FITS[0].name, 0)
    assert list(answer.found.offsets) == place(rects, FITS[0])


def test_no_search_begins_whose_tables_take_too_long() -> None:
    rects = read_csv((MINIMALLOC / "A.1048576.csv").read_text()).rects
    tables = A_TABLE_TOUCH * touches(rects)
    assert touches(rects) == len(to_items(rects)[0].cover)
    for limit, begins in ((tables - 1, False), (tables, True)):
        packer = _Packer(rects, CAPACITY, 0, Work(), 1)
        packer.work = Work(limit)
        packer.search()
        assert (packer.work.spent > 0) == (packer.nodes > 0) == begins


def test_the_same_packing_after_the_same_work() -> None:
    rects = spoil(cut_strip(300, 100, 2**20, 0), 0.05, 0)
    one, two = (pack(rects, work=Work(2 * 10**8)) for _ in range(2))
    assert one == two
    assert one.status is Outcome.FEASIBLE  # the work ended the search
    assert one.work > 0


def test_a_clash_of_fixed_offsets_is_named() -> None:
    rects = [Rect(0, 2, 6, fixed=0), Rect(0, 9, 1), Rect(1, 3, 5, fixed=4)]
    with pytest.raises(OverlapError, match="'low' and 'high' overlap at time 1"):
        pack(rects, names=["low", "free", "high"])


@pytest.mark.parametrize("seed", [1, 4, 5])
def test_a_capacity_that_is_no_multiple_of_the_alignment(seed: int) -> None:
    """A sweep left what is empty at the bottom, and the offsets above were multiples of 2."""
    strip = cut_strip(20, 60, strip=1280, seed=seed)
    rects = [rect._replace(align=64) for rect in strip]
    random.Random(seed).shuffle(rects)
    assert pack(rects, 1290, node_limit=20_000).value <= 1290
