"""The kernel is asked for huge pages under what is large, and under nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from roam.lowering.huge_pages import LARGE
from roam.lowering.memory import allocate

SMAPS = Path("/proc/self/smaps")


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


@pytest.mark.parametrize(("size", "expected"), [(LARGE + 100, True), (LARGE - 1, False)])
def test_large_blocks_are_advised(size: int, expected: bool) -> None:
    block = allocate(size, torch.device("cpu"))
    assert advised(block.data_ptr() + size // 2) == expected
    plain = torch.empty(LARGE + 100, dtype=torch.uint8)
    assert not advised(plain.data_ptr() + LARGE // 2)


def test_large_gradients_of_inductors_code_are_advised() -> None:
    """GPT-2's embedding has one of 154 MB, whose 37,000 pages were mapped anew in every step."""
    torch._dynamo.reset()
    model = nn.Linear(2048, 4200, bias=False)
    assert model.weight.nbytes > LARGE
    run = torch.compile(model, backend="roam", options={"lowering": "inductor"})
    run(torch.ones(4, 2048)).sum().backward()
    assert model.weight.grad is not None
    assert advised(model.weight.grad.data_ptr() + LARGE // 2)
