"""The facts about hardware are so, as far as the machine at hand can tell."""

from __future__ import annotations

import mmap
import sys

import pytest
import torch

from roam.core import machine
from roam.core.machine import CPU, CUDA, MALLOC_MAPS_FROM, OTHER, Rates


def test_a_device_is_found_by_its_type() -> None:
    assert machine.of("cuda") is machine.of("cuda:1") is CUDA
    assert machine.of(str(torch.device("cpu"))) is CPU
    assert machine.of("abacus") is OTHER


def test_every_address_that_torch_gives_is_aligned() -> None:
    tensors = [torch.empty(n) for n in (1, 7, 100, 3000, 1_000_001)]
    assert {t.data_ptr() % CPU.alignment for t in tensors} == {0}


@pytest.mark.skipif(sys.platform != "linux", reason="pages are larger elsewhere")
def test_pages() -> None:
    assert CPU.blocking.page == mmap.PAGESIZE


def test_neighbours_lie_at_eight_places_of_their_pages() -> None:
    places = [n * CPU.blocking.stagger % CPU.blocking.page for n in range(8)]
    assert len(set(places)) == 8
    assert all(place % CPU.alignment == 0 for place in places)


def test_no_block_for_saved_tensors_is_mapped_anew() -> None:
    assert CPU.blocking.largest < MALLOC_MAPS_FROM == CPU.huge_pages_from


def test_an_op_takes_the_longer_of_its_arithmetic_and_its_traffic() -> None:
    rates = Rates({"float32": 100.0, "bfloat16": 400.0}, bandwidth=10.0, call=0.5)
    assert rates.seconds(nbytes=0) == 0.5
    assert rates.seconds(nbytes=20) == 0.5 + 2.0
    assert rates.seconds(nbytes=20, flops=800) == 0.5 + 8.0
    assert rates.seconds(nbytes=20, flops=800, dtype="bfloat16") == 0.5 + 2.0
