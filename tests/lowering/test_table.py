"""A further lowering is a module with a LOWERING, and a row of the table."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
import torch

import roam
from roam.core.errors import UnplannedWarning
from roam.lowering.aten.kernels import AtenKernels
from roam.options import LOWERINGS
from tests.helpers import mlp, random


@dataclass
class CountedKernels(AtenKernels):
    """Counts how often the driver calls them."""

    calls: list[str] = field(default_factory=list)

    def forward(self, planned: Any, args: list[Any]) -> Any:
        self.calls.append("forward")
        return super().forward(planned, args)

    def backward(self, planned: Any, args: list[Any], absorb: Any) -> Any:
        self.calls.append("backward")
        return super().backward(planned, args, absorb)


class Counted:
    """A lowering of its own that works on the CPU and refuses, if told to, every graph."""

    name = "counted"
    refusals: tuple[type[Exception], ...] = (NotImplementedError,)

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses
        self.calls: list[str] = []

    def lacks(self, devices: Collection[torch.device], *, asked: bool) -> str | None:
        return None if {d.type for d in devices} <= {"cpu"} else "nothing but a CPU"

    def kernels(self, graph: Any, options: Any, reports: Any) -> Any:
        if not self.refuses:
            return CountedKernels(graph, options, reports, calls=self.calls)

        class Refusing(AtenKernels):
            def compile(self, *_: Any) -> Any:
                raise NotImplementedError("no kernels today")

        return Refusing(graph, options, reports)


def ask_for(monkeypatch: pytest.MonkeyPatch, lowering: Counted) -> None:
    module: Any = ModuleType("counted")
    module.LOWERING = lowering
    monkeypatch.setitem(sys.modules, "counted", module)
    rows = {"counted": "counted", **LOWERINGS}
    monkeypatch.setattr("roam.options.LOWERINGS", rows)
    monkeypatch.setattr("roam.lowering.table.LOWERINGS", rows)


def test_the_driver_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lowering = Counted()
    ask_for(monkeypatch, lowering)
    run = torch.compile(mlp(), backend="roam", options={"lowering": "counted"})
    run(random(5, 8)).sum().backward()
    assert lowering.calls == ["forward", "backward"]


def test_what_it_refuses_goes_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    ask_for(monkeypatch, Counted(refuses=True))
    run = torch.compile(mlp(), backend="roam", options={"lowering": "counted"})
    with pytest.warns(UnplannedWarning, match="counted cannot compile .*no kernels today"):
        run(random(5, 8)).sum().backward()
    assert [g.lowering for g in roam.report().graphs] == ["inductor"]
