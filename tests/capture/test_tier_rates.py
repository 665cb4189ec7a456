"""A disk is measured once, whatever folder of it is named, and not again by later processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from roam.capture.cost_table import CostTable, Site
from roam.capture.tier_rates import TierRates, bandwidth
from roam.core.errors import TierError
from roam.runtime.tier_speed import measure
from tests.runtime.faults import on_disk

SITE = Site("torch", "machine", 1)


def test_it_is_measured_once_a_disk(tmp_path: Path) -> None:
    asked: list[str | Path] = []

    def probe(folder: str | Path) -> tuple[float, float]:
        asked.append(folder)
        return 3e9, 2e9

    on_disk(tmp_path)
    (tmp_path / "inside").mkdir()
    for folder in (tmp_path, tmp_path / "inside"):
        table = CostTable.open(SITE, tmp_path / "cache")
        assert bandwidth(folder, table, probe) == TierRates(3e9, 2e9)
    assert asked == [tmp_path]


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(TierError, match="no such folder"):
        bandwidth(tmp_path / "missing", CostTable.open(SITE, tmp_path))


def test_a_failed_probe_is_no_measurement(tmp_path: Path) -> None:
    def probe(folder: str | Path) -> tuple[float, float]:
        raise TierError(f"{folder} fails")

    table = CostTable.open(SITE, on_disk(tmp_path) / "cache")
    with pytest.raises(TierError, match="fails"):
        bandwidth(tmp_path, table, probe)
    assert table.rates == {}


def test_bytes_by_the_clock(tmp_path: Path) -> None:
    ticks = iter([10.0, 12.0, 16.0])
    found = measure(on_disk(tmp_path), 2**20, clock=lambda: next(ticks))
    assert found == (2**20 / 2, 2**20 / 4)
    assert os.listdir(tmp_path) == []


def test_a_clock_that_stands_still_is_no_error(tmp_path: Path) -> None:
    assert min(measure(on_disk(tmp_path), 4096, clock=lambda: 1.0)) > 0
