"""How fast the machine at hand is, by three probes: a roofline for what no one has measured.

    a product of matrices    operations a second, for each dtype
    a copy                   bytes a second
    a sum of two numbers     seconds of a call

The probes take a tenth of a second, once a machine. Of several runs the shortest counts: whatever
else the machine does only adds to it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from math import inf

import torch

from roam.capture.cost_table import CostTable
from roam.core.machine import Rates, Seconds

log = logging.getLogger("roam")

COPIED = {"cpu": 2**25}  # bytes of the probe's copy: with its source, what planning may take
COPIED_ELSEWHERE = 2**28  # bytes: more than an accelerator's cache
SIDES = [2**k for k in range(9, 14)]  # of the matrices: the first that takes LONG, or the last
LONG: Seconds = 2e-3
RUNS = 20  # of each probe and each op,
ENOUGH: Seconds = 0.03  # unless they have taken so long together
TICK: Seconds = 1e-9  # a coarse clock may not move

Clock = Callable[[], Seconds]


def is_here(device: str) -> bool:
    """Whether ops can run on a type of device in this process."""
    if device == "cpu":
        return True
    found = torch.accelerator.current_accelerator(check_available=True)
    return found is not None and found.type == device


def rates_of(
    device: str, dtypes: Iterable[torch.dtype], table: CostTable, clock: Clock = time.perf_counter
) -> Rates:
    """Returns the rates of a device that is here, and adds those that were not known to the table.

    Args:
        device: the type.
        dtypes: of the products that will be estimated.
        table: what was measured before.
        clock: in seconds.
    """
    known = table.rates

    def rate(name: str, measure: Callable[[], float]) -> float:
        key = f"{device} {name}"
        if key not in known:
            known[key] = measure()
        return known[key]

    usual = rate("flops float32", partial(_product_rate, device, torch.float32, clock))
    flops = {"float32": usual}
    for dtype in dtypes:
        name = dtype_name(dtype)
        measure = partial(_product_rate, device, dtype, clock, otherwise=usual)
        flops[name] = rate(f"flops {name}", measure)
    bandwidth = rate("bandwidth", partial(_copy_rate, device, clock))
    return Rates(flops, bandwidth, rate("call", partial(_call_seconds, device, clock)))


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def shortest(
    run: Callable[[], object], device: str, clock: Clock, end: Seconds = inf
) -> Seconds | None:
    """Returns the seconds of the shortest of some runs, the device's work included.

    A first run, which finds its memory and its threads, does not count.

    Args:
        run: what to time.
        device: the type of the device that it runs on.
        clock: in seconds.
        end: no run begins that might not be over by then.

    Returns:
        None if only the first run was in time.
    """

    def timed() -> Seconds:
        start = clock()
        run()
        if device != "cpu":
            torch.accelerator.synchronize()
        return clock() - start

    first, taken = timed(), list[Seconds]()
    while len(taken) < RUNS and sum(taken) < ENOUGH and clock() + first <= end:
        taken.append(timed())
    return max(min(taken), TICK) if taken else None


def _product_rate(
    device: str, dtype: torch.dtype, clock: Clock, *, otherwise: float = 0.0
) -> float:
    """Operations a second. otherwise: if the device has no product of that dtype."""
    for side in SIDES:
        try:
            a, b = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
            taken = _seconds(partial(torch.mm, a, b), device, clock)
        except RuntimeError as error:
            log.debug("no product of %s on %s: %s", dtype, device, error)
            return otherwise
        if taken >= LONG:
            break
    return 2 * side**3 / taken


def _copy_rate(device: str, clock: Clock) -> float:
    size = COPIED.get(device, COPIED_ELSEWHERE)
    source, to = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * size / _seconds(partial(to.copy_, source), device, clock)


def _call_seconds(device: str, clock: Clock) -> Seconds:
    a, b = torch.ones(1, device=device), torch.ones(1, device=device)
    return _seconds(partial(torch.add, a, b), device, clock)


def _seconds(run: Callable[[], object], device: str, clock: Clock) -> Seconds:
    taken = shortest(run, device, clock)
    assert taken is not None  # there is no end
    return taken
