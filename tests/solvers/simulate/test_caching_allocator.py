"""The simulated caching allocator, against sequences worked out by hand."""

import pytest

from roam.core.machine import MIB
from roam.solvers.simulate.caching_allocator import CachingAllocator, Span, reserved


@pytest.mark.parametrize(
    ("size", "allocated", "segment"),
    [
        (1, 512, 2 * MIB),
        (512, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),  # the largest of the small pool
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),  # a segment of its own from here on
        (10 * MIB + 1, 10 * MIB + 512, 12 * MIB),
        (11 * MIB, 12 * MIB, 12 * MIB),  # 1 MiB would be left: not split
        (64 * MIB, 64 * MIB, 64 * MIB),
    ],
)
def test_one_request(size: int, allocated: int, segment: int) -> None:
    allocator = CachingAllocator()
    allocator.malloc(size)
    assert (allocator.allocated, allocator.reserved) == (allocated, segment)


def test_nothing_takes_nothing() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(0))
    assert (allocator.allocated, allocator.reserved) == (0, 0)


def test_small_and_large_requests_do_not_share_segments() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(20 * MIB))
    allocator.malloc(1000)
    assert allocator.reserved == 22 * MIB


def test_the_smallest_block_that_fits_is_taken() -> None:
    allocator = CachingAllocator()
    large, small = allocator.malloc(40 * MIB), allocator.malloc(16 * MIB)
    allocator.free(large)
    allocator.free(small)
    taken = allocator.malloc(15 * MIB)
    assert taken is not None
    assert taken.address == 40 * MIB  # the 16 MiB segment
    assert taken.size == 16 * MIB  # exactly 1 MiB would be left: not split
    assert allocator.reserved == 56 * MIB


def test_a_large_block_is_split_where_more_than_one_mib_is_left() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(40 * MIB))
    first, second = allocator.malloc(30 * MIB), allocator.malloc(10 * MIB)
    assert first is not None
    assert second is not None
    assert (first.address, second.address) == (0, 30 * MIB)
    assert allocator.reserved == 40 * MIB


def test_neighbours_join_only_within_their_segment() -> None:
    allocator = CachingAllocator()
    a, b, c = (allocator.malloc(5 * MIB) for _ in range(3))  # one segment of 20 MiB
    allocator.free(a)
    allocator.free(c)  # joins the 5 MiB that were left
    allocator.malloc(11 * MIB)  # fits neither the 5 at the bottom nor the 10 on top
    assert allocator.reserved == 32 * MIB
    allocator.free(b)  # now all 20 MiB are one block again
    whole = allocator.malloc(20 * MIB)
    assert whole is not None
    assert (whole.address, whole.size) == (0, 20 * MIB)
    assert allocator.reserved == 32 * MIB


def test_a_split_small_segment_is_whole_again_when_all_is_freed() -> None:
    allocator = CachingAllocator()
    blocks = [allocator.malloc(512) for _ in range(4096)]  # 2 MiB
    assert allocator.reserved == 2 * MIB
    allocator.malloc(1)
    assert allocator.reserved == 4 * MIB
    for block in blocks[::2] + blocks[1::2]:
        allocator.free(block)
    assert allocator.allocated == 512
    two = [allocator.malloc(MIB) for _ in range(2)]
    assert [block is not None and block.address for block in two] == [2 * MIB + 512, 0]


def test_reserved_of_a_step() -> None:
    # time       0   1   2   3
    # 30 MiB     [-------)           40 MiB is asked for while both are held, then 30 comes free
    # 40 MiB         [-------)
    # 12 MiB             [---)       goes into what the 30 left
    spans = [Span(0, 2, 30 * MIB), Span(1, 3, 40 * MIB), Span(2, 3, 12 * MIB)]
    assert reserved(spans) == 70 * MIB
    assert reserved(spans, persistent=[100, 11 * MIB]) == 70 * MIB + 2 * MIB + 12 * MIB


def test_what_ends_where_another_begins_is_free_by_then() -> None:
    assert reserved([Span(0, 1, 30 * MIB), Span(1, 2, 30 * MIB)]) == 30 * MIB


def test_later_steps_may_need_more() -> None:
    # the second step finds 40 and 30 MiB free: the 12 split the 30, the 30 split the 40, and the
    # 28 find no room
    spans = [
        Span(0, 1, 40 * MIB),
        Span(1, 4, 12 * MIB),
        Span(2, 4, 30 * MIB),
        Span(3, 4, 28 * MIB),
    ]
    assert reserved(spans, steps=1) == 70 * MIB
    assert reserved(spans, steps=2) == 98 * MIB
