"""The kernel is asked for huge pages under large blocks, and under nothing else."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch
from torch import nn

from roam.core.machine import MALLOC_MAPS_FROM
from roam.runtime import huge_pages
from roam.runtime.blocks import allocate
from roam.runtime.huge_pages import on_huge_pages

SMAPS = Path("/proc/self/smaps")
MAPPED = 33 << 20  # bytes of a large block


def advised(address: int) -> bool:
    """Whether the mapping around an address is marked "hg"."""
    inside = False
    for line in SMAPS.read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            low, high = (int(end, 16) for end in first.split("-"))
            inside = low <= address < high
        elif inside and first == "VmFlags:":
            return "hg" in line.split()
    raise AssertionError("no mapping there")


pytestmark = pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="needs Linux's huge pages"
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The ranges of addresses that the kernel is asked for, which it is not in the test.

    The kernel's own marks tell less: malloc gives pages of earlier blocks out again.
    """
    found: list[tuple[int, int]] = []

    def ask(start: int, size: int, _: int) -> None:
        found.append((start, start + size))

    monkeypatch.setattr(huge_pages, "_madvise", lambda: ask)
    return found


def test_large_blocks_are_advised() -> None:
    block = allocate(MAPPED, torch.device("cpu"))
    assert advised(block.data_ptr() + MAPPED // 2)


@pytest.mark.parametrize(
    ("size", "expected"), [(MALLOC_MAPS_FROM, True), (MALLOC_MAPS_FROM - 1, False)]
)
def test_only_a_tensors_own_pages_are(
    size: int, expected: bool, asked: list[tuple[int, int]]
) -> None:
    """What lies beside it in malloc's heap is somebody else's."""
    block = on_huge_pages(torch.empty(size, dtype=torch.uint8))
    assert bool(asked) == expected
    for start, end in asked:
        assert start % mmap.PAGESIZE == end % mmap.PAGESIZE == 0
        assert block.data_ptr() <= start < end <= block.data_ptr() + size
        assert end - start > size - 2 * mmap.PAGESIZE


def test_what_inductors_code_allocates_is_not(asked: list[tuple[int, int]]) -> None:
    """On some machines a step with huge pages under all of it took longer."""
    torch._dynamo.reset()
    model = nn.Linear(2048, MAPPED // 8000, bias=False)
    run = torch.compile(model, backend="roam", options={"lowering": "inductor"})
    run(torch.ones(4, 2048)).sum().backward()
    assert model.weight.grad is not None
    assert model.weight.grad.nbytes > MAPPED
    inside = model.weight.grad.data_ptr() + MAPPED // 2
    assert not any(start <= inside < end for start, end in asked)
