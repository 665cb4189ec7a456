"""SSDTrain's configurations, on one that is small."""

from __future__ import annotations

from roam.bench.offload_shapes import row_of
from roam.bench.ssdtrain_models import CONFIGS, Config
from roam.core.described_machines import Machine
from roam.core.machine import Rates


def test_a_small_one_is_planned_between_its_bound_and_what_is_kept() -> None:
    rates = Rates({"float32": 1e12, "float16": 1e12}, bandwidth=1e11, call=0.0)
    machine = Machine("slow", "cuda", rates, write=1e9, read=1e9)
    row = row_of(Config("t5", 512, 3), machine)
    assert row["machine"] == "slow"
    assert 0 < row["bound"] <= row["unreserved"] <= row["planned"] < row["kept"]
    assert row["bound"] <= row["prefix"] < row["kept"]
    assert row["planned_stall"] == row["unreserved_stall"] == 0
    assert row["moved"] > 0


def test_there_are_nine() -> None:
    assert len(CONFIGS) == 9
