"""Measures what a step really allocates, to compare it with the planned peak."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from roam.core.errors import MeasurementError


@dataclass(frozen=True)
class Measurement:
    """What one call allocated, in bytes above what was allocated before it.

    Attributes:
        peak: bytes at the worst moment.
        held: bytes that are still allocated after the call.
        events: the number of allocations and releases that were seen.
        reserved: the most bytes that the CUDA allocator had taken from the device; 0 on the CPU.
    """

    peak: int
    held: int
    events: int
    reserved: int = 0


def measure_peak(
    fn: Callable[[], object],
    device: torch.device | str | None = None,
    warm_up: Callable[[], object] | None = None,
) -> Measurement:
    """Runs `fn` once and measures the memory that it allocates.

    On the CPU this sees every allocation that this thread makes through torch's allocator, at the
    requested size. It does not see other threads, nor memory that libraries take from malloc
    directly (convolution workspaces, packed weights). On CUDA the caching allocator counts, in its
    rounded sizes.

    Args:
        fn: the call to measure. Its result is dropped, its errors are passed on.
        device: CPU or CUDA; None: the CPU.
        warm_up: runs before `fn`. Its own peak does not count, but memory that it leaves allocated
            counts as if `fn` held it, so that memory kept between steps is not missed.

    Raises:
        MeasurementError: a profiler runs already, as inside another `measure_peak`. torch has one
            for the whole process.
    """
    where = torch.device(device or "cpu")
    if where.type == "cpu":
        return _measure_cpu(fn, warm_up)
    if where.type == "cuda":
        return _measure_cuda(fn, where, warm_up)
    raise ValueError(f"memory of {where} cannot be measured: only cpu and cuda can")


_MARK = "roam.measure"


def _measure_cpu(fn: Callable[[], object], warm_up: Callable[[], object] | None) -> Measurement:
    if torch.autograd.profiler._is_profiler_enabled:
        raise MeasurementError(
            "a profiler runs already, and torch has only one: measure outside of it, and not "
            "inside of another measure_peak"
        )
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        if warm_up is not None:
            warm_up()
        gc.collect()  # freeing earlier garbage during the call would be counted
        with record_function(_MARK):
            fn()
    assert prof.profiler is not None
    assert prof.profiler.kineto_results is not None
    tree = prof.profiler.kineto_results.experimental_event_tree()
    # only numbers are kept, because objects of all events take gibibytes for a large model
    changes: list[tuple[int, int, int]] = []  # nanoseconds, address, bytes
    start: int | None = None
    for event in _walk(tree):
        if event.name == "[memory]":
            seen = event.extra_fields
            if seen.device.type == "cpu":
                changes.append((event.start_time_ns, seen.ptr, seen.alloc_size))
        elif event.name == _MARK:
            start = event.start_time_ns
    assert start is not None, "the profiler saw the mark"
    changes.sort(key=lambda change: change[0])
    early = sum(time < start for time, _, _ in changes)
    return _sum([(address, size) for _, address, size in changes], early)


def _walk(events: Iterable[Any]) -> Iterator[Any]:
    waiting = list(events)
    while waiting:
        event = waiting.pop()
        yield event
        waiting.extend(event.children)


def _sum(changes: list[tuple[int, int]], early: int) -> Measurement:
    """Adds up allocations and releases.

    A release counts only if its allocation was seen. The profiler remembers addresses between
    runs, so it may report the release of an older tensor with the size of one that lay there once.

    Args:
        changes: (address, bytes) in the order of time; a release has negative bytes.
        early: the number of changes before `fn` ran. They do not count for the peak.
    """
    live: dict[int, int] = {}
    now = peak = seen = 0
    for i, (address, size) in enumerate(changes):
        if i == early:
            peak, seen = now, 0
        if size > 0:
            live[address] = size
        elif address in live:
            size = -live.pop(address)
        else:
            continue
        now += size
        peak = max(peak, now)
        seen += 1
    if early == len(changes):
        peak, seen = now, 0
    return Measurement(peak=peak, held=now, events=seen)


def _measure_cuda(
    fn: Callable[[], object], device: torch.device, warm_up: Callable[[], object] | None
) -> Measurement:
    def allocations() -> int:
        stats = torch.cuda.memory_stats(device)
        return int(stats["allocation.all.allocated"] + stats["allocation.all.freed"])

    gc.collect()
    start = torch.cuda.memory_allocated(device)
    if warm_up is not None:
        warm_up()
        gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = allocations()
    fn()
    torch.cuda.synchronize(device)
    return Measurement(
        peak=torch.cuda.max_memory_allocated(device) - start,
        held=torch.cuda.memory_allocated(device) - start,
        events=allocations() - before,
        reserved=torch.cuda.max_memory_reserved(device),
    )
