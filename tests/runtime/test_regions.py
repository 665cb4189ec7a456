"""Regions go where there is room, and live as long as somebody refers to them."""

from __future__ import annotations

import gc
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roam.core.machine import PAGE
from roam.runtime.regions import AddressSpace, Region, Span
from roam.runtime.tier_file import TierFile
from roam.runtime.tier_folder import SystemCalls
from tests.runtime.faults import on_disk


class NoFile(TierFile):
    """A file of which only the size exists."""

    def __init__(self) -> None:
        self.size = 0

    def grow(self, size: int) -> None:
        self.size = max(self.size, size)

    def trim(self, size: int) -> None:
        self.size = min(self.size, size)


def test_the_first_place_with_room_is_taken() -> None:
    space = AddressSpace(NoFile())
    a, b, c = (space.open(n * PAGE) for n in (3, 2, 1))
    assert [r.offset for r in (a, b, c)] == [0, 3 * PAGE, 5 * PAGE]
    del b
    wide = space.open(3 * PAGE)
    assert wide.offset == 6 * PAGE
    assert space.open(2 * PAGE).offset == 3 * PAGE
    assert space.file.size == 9 * PAGE


@given(st.lists(st.one_of(st.integers(0, 5 * PAGE), st.none()), max_size=30), st.randoms())
def test_regions_never_overlap(steps: list[int | None], random: object) -> None:
    """None drops one of them, whichever."""
    space, open_now, numbers = AddressSpace(NoFile()), [], []
    for step in steps:
        if step is not None:
            open_now.append(space.open(step))
            numbers.append(open_now[-1].number)
            assert open_now[-1].nbytes % PAGE == 0
            assert open_now[-1].nbytes >= step
        elif open_now:
            open_now.pop(random.randrange(len(open_now)))
        for a, b in combinations(open_now, 2):
            assert a.end <= b.offset or b.end <= a.offset or 0 in (a.nbytes, b.nbytes)
        assert all(r.end <= space.file.size for r in open_now)
    assert numbers == sorted(set(numbers))


def test_the_same_steps_need_no_more_room() -> None:
    space = AddressSpace(NoFile())
    for _ in range(20):
        pending = [space.open(n * PAGE) for n in (4, 7, 2)]
        del pending
    assert space.file.size == 13 * PAGE


def test_what_is_reserved_is_there_later() -> None:
    space = AddressSpace(NoFile())
    held = space.open(PAGE)
    space.reserve(10 * PAGE - 5)
    assert space.file.size == 11 * PAGE
    assert space.open(10 * PAGE).offset == held.end
    assert space.file.size == 11 * PAGE


def test_trimming_keeps_the_open_regions() -> None:
    space = AddressSpace(NoFile())
    a, b = space.open(PAGE), space.open(PAGE)
    del a
    space.trim()
    assert space.file.size == 2 * PAGE
    assert b.number == 2
    del b
    space.trim()
    assert space.file.size == 0


def test_a_slot_holds_its_region() -> None:
    space = AddressSpace(NoFile())
    region = space.open(PAGE)
    slot = Span(region, "t", 0, 5)
    region.claim(slot)
    del region
    assert space.open(PAGE).offset == PAGE
    del slot
    assert space.open(PAGE).offset == 0  # without a collection of cycles


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3 * PAGE)), max_size=20))
def test_who_writes_over_whom_is_known(writes: list[tuple[int, int]]) -> None:
    region = Region(NoFile(), 7 * PAGE, 12 * PAGE, 1)
    spans: list[Span] = []
    for i, (page, nbytes) in enumerate(writes):
        span = Span(region, f"t{i}", page * PAGE, nbytes)
        met = [s for s in spans if s.offset < span.end and span.offset < s.end]
        current = [s for s in met if not s.overwritten_by]
        assert {s.name for s in current} <= {s.name for s in region.claim(span)}
        assert all(s.overwritten_by for s in met)
        spans.append(span)
        for a, b in combinations([s for s in spans if not s.overwritten_by], 2):
            assert a.end <= b.offset or b.end <= a.offset


def test_the_file_goes_with_its_last_region(tmp_path: Path) -> None:
    file = TierFile(on_disk(tmp_path), SystemCalls())
    space, closed = AddressSpace(file), file._close
    region = space.open(PAGE)
    del space, file
    assert closed.alive
    del region
    gc.collect()
    assert not closed.alive


def test_a_dropped_tensor_is_in_nobodys_way() -> None:
    region = Region(NoFile(), 0, 4 * PAGE, 1)
    region.claim(Span(region, "a", 0, PAGE))
    b = Span(region, "b", PAGE, PAGE)
    assert region.claim(b) == []
    assert region.claim(Span(region, "c", 0, 2 * PAGE)) == [b]
    assert b.overwritten_by == "c"


@pytest.mark.parametrize(("nbytes", "pages"), [(0, 0), (1, 1), (PAGE, 1), (PAGE + 1, 2)])
def test_sizes_are_whole_pages(nbytes: int, pages: int) -> None:
    assert AddressSpace(NoFile()).open(nbytes).nbytes == pages * PAGE
