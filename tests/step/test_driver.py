"""How the driver runs a graph, whatever its kernels: with kernels that only write down calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

import roam
from roam.step.driver import Step


@dataclass
class Kernels:
    """A graph without a folding optimizer. plan: what `plan` returns. why: what it refuses for."""

    made: Any = "a plan"
    why: str | None = None
    calls: list[tuple[str, Any]] = field(default_factory=list)
    may_fold: bool = False
    trains: bool = True
    own_saved: int | None = None
    gradient_values: Mapping[int, Any] = field(default_factory=dict)
    without_plan: str = "this backward ran unplanned"

    def compile(self, *_: Any) -> Any:
        raise AssertionError("it is compiled")

    def plan(self, args: Sequence[Any], folds: Any) -> Any:
        self.calls.append(("plan", folds))
        return self.made

    def forward(self, planned: Any, args: list[Any]) -> Sequence[Any]:
        self.calls.append(("forward", planned))
        return ["results"]

    def found(self, args: Sequence[Any]) -> Any:
        return self.made

    def folds(self, planned: Any) -> bool:
        return False

    def refusal(self, planned: Any, args: list[Any], *, retained: bool) -> str | None:
        return self.why

    def backward(self, planned: Any, args: list[Any], absorb: Any) -> Sequence[Any]:
        self.calls.append(("backward", absorb))
        return ["gradients"]

    def plain_backward(self, args: list[Any], reason: str = "") -> Sequence[Any]:
        self.calls.append(("plain", None))
        return ["gradients"]


def run(kernels: Kernels) -> list[tuple[str, Any]]:
    step = Step("net", kernels)
    assert step.forward([1]) == ["results"]
    assert step.backward([2]) == ["gradients"]
    return kernels.calls


def test_the_plan_of_the_forward_runs_the_backward() -> None:
    assert run(Kernels()) == [("plan", ()), ("forward", "a plan"), ("backward", None)]
    assert roam.report().detours == {}


def test_without_a_plan_the_backward_is_as_captured() -> None:
    assert run(Kernels(made=None)) == [("plan", ()), ("forward", None), ("plain", None)]
    assert roam.report().detours == {}  # that the graph has no plan is reported, once


def test_a_backward_that_is_refused_is_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kernels = Kernels(why="the moon is full")
    run(kernels)
    assert run(kernels)[-1] == ("plain", None)
    assert roam.report().detours == {"the moon is full": 2}
    logged = [r.getMessage() for r in caplog.records if r.name == "roam"]
    assert logged == ["net: the moon is full; this backward ran unplanned"]
