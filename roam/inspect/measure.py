"""What a step really allocates: the figure that every planned peak is held against."""

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
    """What one call allocated, in bytes above what was there before it.

    peak: at the worst moment. held: still there when the call had returned.
    events: how many allocations and releases were seen.
    reserved: the most bytes the CUDA allocator held from the device, 0 on the CPU.
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
    """Runs `fn` once and measures the memory of `device` (the CPU by default) meanwhile.

    `warm_up` runs before it, unmeasured, but what it leaves behind counts as if `fn` held it:
    memory that is kept from one step to the next cannot hide there.

    On the CPU every allocation of torch's allocator is seen that this thread makes, at the size
    that was asked for; what other threads allocate, and what libraries take from malloc behind
    its back (convolution workspaces, packed weights), is not. On CUDA the caching allocator
    counts, in its rounded sizes.

    What `fn` returns is dropped. What it raises is passed on. Raises MeasurementError where a
    profiler runs already, as inside another `measure_peak`: torch has one for the whole process.
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
        gc.collect()  # garbage from before must not die, and be counted, inside
        with record_function(_MARK):
            fn()
    assert prof.profiler is not None
    assert prof.profiler.kineto_results is not None
    events = list(_walk(prof.profiler.kineto_results.experimental_event_tree()))
    memory = [e for e in events if e.name == "[memory]" and e.extra_fields.device.type == "cpu"]
    memory.sort(key=lambda e: e.start_time_ns)
    [start] = [e.start_time_ns for e in events if e.name == _MARK]
    early = sum(e.start_time_ns < start for e in memory)
    return _sum([(e.extra_fields.ptr, e.extra_fields.alloc_size) for e in memory], early)


def _walk(events: Iterable[Any]) -> Iterator[Any]:
    waiting = list(events)
    while waiting:
        event = waiting.pop()
        yield event
        waiting.extend(event.children)


def _sum(changes: list[tuple[int, int]], early: int) -> Measurement:
    """Adds up (address, signed bytes) in the order of time, the first `early` of them unmeasured.

    A release counts only if its allocation was seen. The profiler remembers addresses between
    runs, so it may report the release of something older with the size of what once lay there.
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
