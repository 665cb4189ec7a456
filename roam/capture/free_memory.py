"""How many bytes a device has free: what the budget "auto" may use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from roam.core.machine import Bytes


@dataclass(frozen=True)
class Places:
    """Where Linux tells about memory.

    Attributes:
        available: the file with the line "MemAvailable".
        groups: the folder of the control groups.
        own: the file with the path of the process's groups, one line a hierarchy: "0::/path" in
            version 2, "9:memory:/path" in version 1.
    """

    available: Path = Path("/proc/meminfo")
    groups: Path = Path("/sys/fs/cgroup")
    own: Path = Path("/proc/self/cgroup")


LINUX = Places()


def free_bytes(device: torch.device, places: Places = LINUX) -> Bytes:
    """Returns the bytes that a process may still allocate on a device.

    On CUDA what the driver has free. On the CPU the available memory of the machine or, if that is
    less, what the limit of a control group leaves that the process is in.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    known = [_available(places.available), *map(_left_of_group, _groups(places))]
    return min((n for n in known if n is not None), default=2**62)


def _available(file: Path) -> Bytes | None:
    lines = file.read_text().splitlines() if file.exists() else []
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else 1024 * int(found.split()[1])


def _groups(places: Places) -> Iterator[Path]:
    """Yields the folders of the process's control groups, and of those around them.

    In a container the path is often the one outside of it: then only the root is there.
    """
    lines = places.own.read_text().splitlines() if places.own.exists() else []
    for line in ("0::/", "0:memory:/", *lines):
        _, controllers, path = line.split(":", 2)
        root = places.groups / ("memory" if controllers else "")
        if controllers.split(",") in ([""], ["memory"]):
            group = root / path.strip("/")
            yield from (g for g in (group, *group.parents) if g.is_relative_to(root))


def _left_of_group(folder: Path) -> Bytes | None:
    """Returns the bytes that a control group may still take, None if it has no limit.

    The kernel takes cached files back when memory is short, so those not used lately are free.
    """
    limit = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
    used = _number(folder / "memory.current", folder / "memory.usage_in_bytes")
    if limit is None or used is None:
        return None
    stat = folder / "memory.stat"
    counts = dict(line.split() for line in stat.read_text().splitlines()) if stat.exists() else {}
    cached = int(counts.get("total_inactive_file", counts.get("inactive_file", 0)))
    return max(0, limit - max(0, used - cached))


def _number(*files: Path) -> Bytes | None:
    text = next((f.read_text().strip() for f in files if f.exists()), "")
    return int(text) if text.isdigit() else None
