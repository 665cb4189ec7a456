"""What the budget "auto" finds free, on machines made of files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from roam.capture.free_memory import Places, free_bytes
from roam.core.budget import MARGIN, Budget

CPU = torch.device("cpu")
KIB = 1024
UNLIMITED = 2**63 - 4096  # as version 1 writes "no limit"


def machine(folder: Path, files: Mapping[str, object], available: int | None = 1000) -> Places:
    """A machine with `available` KiB and these files of control groups, or of the process."""
    places = Places(folder / "meminfo", folder / "cgroup", folder / "own")
    if available is not None:
        places.available.write_text(f"MemTotal: 9 kB\nMemAvailable:   {available} kB\n")
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return places


@pytest.mark.parametrize(
    ("files", "free"),
    [
        pytest.param({}, 1000 * KIB, id="no group"),
        pytest.param(
            {"cgroup/memory.max": "max", "cgroup/memory.current": 5}, 1000 * KIB, id="max"
        ),
        pytest.param({"cgroup/memory.max": 700, "cgroup/memory.current": 200}, 500, id="v2"),
        pytest.param({"cgroup/memory.max": 700, "cgroup/memory.current": 900}, 0, id="v2 over"),
        pytest.param({"cgroup/memory.max": 700}, 1000 * KIB, id="v2 without its use"),
        pytest.param(
            {
                "cgroup/memory.max": 700,
                "cgroup/memory.current": 600,
                "cgroup/memory.stat": "anon 150\ninactive_file 400",
            },
            500,
            id="v2 with cached files",
        ),
        pytest.param(
            {
                "own": "0::/jobs/mine",
                "cgroup/jobs/mine/memory.max": "max",
                "cgroup/jobs/mine/memory.current": 100,
                "cgroup/jobs/memory.max": 900,
                "cgroup/jobs/memory.current": 300,
            },
            600,
            id="v2 limit of the group around",
        ),
        pytest.param(
            {
                "own": "4:cpu,cpuacct:/x\n9:memory:/docker/abc\n0::/",
                "cgroup/memory/docker/abc/memory.limit_in_bytes": 800,
                "cgroup/memory/docker/abc/memory.usage_in_bytes": 100,
                "cgroup/memory/memory.limit_in_bytes": UNLIMITED,
                "cgroup/memory/memory.usage_in_bytes": 300,
            },
            700,
            id="v1",
        ),
        pytest.param(
            {
                "own": "9:memory:/docker/abc",  # as it is called outside of the container
                "cgroup/memory/memory.limit_in_bytes": 800,
                "cgroup/memory/memory.usage_in_bytes": 100,
            },
            700,
            id="v1 in a container",
        ),
        pytest.param(
            {
                "cgroup/memory/memory.limit_in_bytes": UNLIMITED,
                "cgroup/memory/memory.usage_in_bytes": 3,
            },
            1000 * KIB,
            id="v1 without a limit",
        ),
    ],
)
def test_the_group_or_the_machine_has_less(
    tmp_path: Path, files: Mapping[str, object], free: int
) -> None:
    assert free_bytes(CPU, machine(tmp_path, files)) == free


def test_a_machine_that_tells_nothing_has_no_limit(tmp_path: Path) -> None:
    assert free_bytes(CPU, machine(tmp_path, {}, available=None)) == 2**62


def test_this_machine_has_something_free() -> None:
    assert 0 < free_bytes(CPU) < 2**62


def test_auto_leaves_a_tenth(tmp_path: Path) -> None:
    files = {"cgroup/memory.max": 1000, "cgroup/memory.current": 0}
    free = free_bytes(CPU, machine(tmp_path, files))
    assert MARGIN == 0.1
    assert Budget.parse("auto").transient(persistent=500, peak=10**9, free=free) == 900
