"""Measured bytes against cases small enough to count by hand."""

import gc
from functools import partial

import pytest
import torch
from torch import nn
from torch.profiler import profile

from roam.core.errors import MeasurementError
from roam.inspect.measure import Measurement, measure_peak

F = 4  # bytes of a float32


def test_freed_before_the_next_allocation() -> None:
    def fn() -> None:
        a = torch.empty(1000)
        b = torch.empty(2000)
        del a
        c = torch.empty(500)
        del b, c

    # live: 1000, 3000, 2000, 2500, ...
    assert measure_peak(fn) == Measurement(peak=3000 * F, held=0, events=6)


def test_what_survives_is_held() -> None:
    kept = []

    def fn() -> None:
        kept.append(torch.empty(100))
        torch.empty(5000)

    assert measure_peak(fn) == Measurement(peak=5100 * F, held=100 * F, events=3)


def test_the_result_is_dropped() -> None:
    assert measure_peak(lambda: torch.empty(7)) == Measurement(peak=7 * F, held=0, events=2)


def test_nothing_allocated() -> None:
    assert measure_peak(lambda: None) == Measurement(peak=0, held=0, events=0)


def test_views_and_in_place_cost_nothing() -> None:
    x = torch.ones(64, 64)

    def fn() -> None:
        x.view(-1).neg_().sqrt_()

    assert measure_peak(fn) == Measurement(peak=0, held=0, events=0)


def test_a_python_number_is_a_tensor_of_one_element() -> None:
    x = torch.ones(64, 64)
    # the int64 that wraps the number, and its float32 copy
    assert measure_peak(lambda: x.add_(1)).peak == 8 + F


def test_temporaries_of_a_matmul_chain() -> None:
    a, b, c = torch.ones(10, 20), torch.ones(20, 300), torch.ones(300, 5)
    # [10,300] lives while [10,5] is made; nothing else
    m = measure_peak(lambda: (a @ b) @ c)
    assert m == Measurement(peak=(3000 + 50) * F, held=0, events=4)


def test_garbage_in_a_cycle_from_before_does_not_count() -> None:
    def cycle() -> None:
        loop: list[object] = [torch.empty(10_000)]
        loop.append(loop)

    cycle()
    assert measure_peak(gc.collect) == Measurement(peak=0, held=0, events=0)


def test_garbage_in_a_cycle_is_held_until_collected() -> None:
    def cycle() -> None:
        loop: list[object] = [torch.empty(1000)]
        loop.append(loop)

    def fn() -> None:
        cycle()
        gc.collect()
        cycle()
        gc.collect()

    assert measure_peak(fn).peak == 1000 * F


def test_release_of_older_memory_does_not_count() -> None:
    """The addresses the profiler remembers come back with other owners, and die inside."""
    for size in (1 << 8, 1 << 12, 1 << 16, 1 << 20):
        held: list[torch.Tensor] = []
        measure_peak(partial(_allocate, held, size))
        held.clear()
        held += [torch.empty(size) for _ in range(8)]
        assert measure_peak(held.clear) == Measurement(peak=0, held=0, events=0)


def _allocate(held: list[torch.Tensor], size: int) -> None:
    held.append(torch.empty(size))


def test_what_the_warm_up_leaves_behind_counts() -> None:
    held: list[torch.Tensor] = []

    def warm_up() -> None:
        torch.empty(90_000)  # gone before the measured part begins
        _allocate(held, 1000)

    m = measure_peak(lambda: torch.empty(500), warm_up=warm_up)
    assert m == Measurement(peak=1500 * F, held=1000 * F, events=2)
    assert measure_peak(lambda: None, warm_up=warm_up) == Measurement(1000 * F, 1000 * F, 0)


def test_what_the_warm_up_left_may_be_released() -> None:
    held: list[torch.Tensor] = []

    def fn() -> None:
        held.clear()
        _allocate(held, 700)

    m = measure_peak(fn, warm_up=partial(_allocate, held, 1000))
    assert m == Measurement(peak=1000 * F, held=700 * F, events=2)


def test_backward_of_a_linear_layer() -> None:
    layer = nn.Linear(30, 40)
    x = torch.ones(8, 30)

    def step() -> None:
        y = layer(x)  # 8*40
        y.backward(torch.ones_like(y))  # the ones: 8*40, the weight's 40*30, the bias's 40

    measure_peak(step)
    layer.zero_grad(set_to_none=True)
    m = measure_peak(step)
    assert m.held == (40 * 30 + 40) * F
    assert m.peak == (8 * 40 + 8 * 40 + 40 * 30 + 40) * F


def test_in_place_activation_saves_its_bytes() -> None:
    x = torch.ones(100, 100)

    def peak(inplace: bool) -> int:
        net = nn.Sequential(nn.Linear(100, 100), nn.ReLU(inplace=inplace))
        with torch.no_grad():
            return measure_peak(lambda: net(x)).peak

    assert peak(inplace=False) - peak(inplace=True) == 100 * 100 * F


def test_an_error_inside_is_passed_on() -> None:
    def fn() -> None:
        torch.empty(10)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        measure_peak(fn)
    assert measure_peak(lambda: torch.empty(9)).peak == 9 * F  # and the next one is sound


def test_a_measurement_inside_of_another_is_refused() -> None:
    """It would end the outer one's profiler, and with it the user's."""
    with pytest.raises(MeasurementError, match="profiler runs already"):
        measure_peak(lambda: measure_peak(lambda: torch.empty(9)))
    with profile(profile_memory=True), pytest.raises(MeasurementError):
        measure_peak(lambda: torch.empty(9))
    assert measure_peak(lambda: torch.empty(9)).peak == 9 * F


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="meta"):
        measure_peak(lambda: None, device="meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_counts_the_same_way() -> None:
    def fn() -> None:
        a = torch.empty(1 << 20, device="cuda")
        b = torch.empty(2 << 20, device="cuda")
        del a
        c = torch.empty(1 << 18, device="cuda")
        del b, c

    m = measure_peak(fn, device="cuda")
    assert (m.peak, m.held, m.events) == (3 * F << 20, 0, 6)
    assert m.reserved >= m.peak
