"""How many bytes a device has free: what the budget "auto" may use."""

from __future__ import annotations

from pathlib import Path

import torch

from roam.core.machine import Bytes

CGROUP = Path("/sys/fs/cgroup")
MEMORY = Path("/proc/meminfo")


def free_bytes(device: torch.device) -> Bytes:
    """Returns the bytes that a process may still allocate on a device.

    On CUDA what the driver has free. On the CPU the available memory of the machine or, if that is
    less, what the limit of the process's control group leaves.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    known = [n for n in (_available(MEMORY), _left_of_group(CGROUP)) if n is not None]
    return min(known, default=2**62)


def _available(file: Path) -> Bytes | None:
    lines = file.read_text().splitlines() if file.exists() else []
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else 1024 * int(found.split()[1])


def _left_of_group(folder: Path) -> Bytes | None:
    """Returns the bytes that a control group may still take, None if it has no limit."""
    limit = _number(folder / "memory.max", folder / "memory/memory.limit_in_bytes")
    used = _number(folder / "memory.current", folder / "memory/memory.usage_in_bytes")
    return None if limit is None or used is None else max(0, limit - used)


def _number(*files: Path) -> Bytes | None:
    text = next((f.read_text().strip() for f in files if f.exists()), "")
    return int(text) if text.isdigit() else None
