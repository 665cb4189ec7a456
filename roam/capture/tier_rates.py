"""How fast a folder's disk is, measured once a machine and disk and kept with the costs of ops."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from roam.capture.cost_table import CostTable
from roam.runtime.tier_folder import check_folder
from roam.runtime.tier_speed import measure


@dataclass(frozen=True)
class TierRates:
    """Bytes a second that a tier moves one way, if nothing goes the other way.

    Attributes:
        write: to the tier.
        read: back to the device.
    """

    write: float
    read: float


def bandwidth(
    folder: str | Path,
    table: CostTable | None = None,
    probe: Callable[[str | Path], tuple[float, float]] = measure,
) -> TierRates:
    """Returns the rates of the disk on which a folder lies. Measures them if nobody has.

    Args:
        folder: of the tier.
        table: what was measured before; this machine's if None.
        probe: measures bytes a second, written and read.

    Raises:
        TierError: the folder can hold no tier.
        TransferError: the disk fails.
    """
    check_folder(Path(folder))
    table = table or CostTable.here()
    device = os.stat(folder).st_dev
    names = [f"disk {os.major(device)}:{os.minor(device)} {way}" for way in ("write", "read")]
    if not all(name in table.rates for name in names):
        table.rates.update(zip(names, probe(folder), strict=True))
        table.save()
    return TierRates(*(table.rates[name] for name in names))
