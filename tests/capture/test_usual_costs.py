"""Costs on a usual machine: nothing is run, and no machine's measurements count."""

from __future__ import annotations

import pytest
import torch

from roam.capture.op_costs import OpCosts
from roam.capture.roofline import OpWork
from roam.capture.symbolic_sizes import Numbers
from roam.capture.usual_costs import UsualCosts
from roam.core.machine import USUAL_CPU, USUAL_CUDA, usual_rates
from tests.capture.test_op_costs import FOUR, Ran, graph_of, ran

__all__ = ["ran"]


def test_they_are_the_usual_rates_for_what_an_op_does(
    ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("this machine's costs do not count")

    monkeypatch.setattr(OpCosts, "_estimated", refuse)
    product = graph_of((torch.ops.aten.mm.default, torch.empty(64, 64), torch.empty(64, 64)))
    for graph in (graph_of(*FOUR), product):
        found = UsualCosts().of([graph], Numbers())
        calls = [n for n in graph.nodes if n.op == "call_function"]
        assert list(found) == calls
        assert all(cost.estimated for cost in found.values())
    assert found[calls[0]].seconds == USUAL_CPU.seconds(3 * 64 * 64 * 4, 2 * 64**3)
    assert not ran


def test_a_device_that_is_not_here_costs_something_too() -> None:
    work = OpWork("cuda", 2**20, 1e9, torch.bfloat16)
    found = UsualCosts().estimated({"op": work})
    assert found["op"].seconds == usual_rates("cuda").seconds(2**20, 1e9, "bfloat16")
    assert usual_rates("xpu") == USUAL_CUDA
    assert USUAL_CUDA.seconds(0, 1e9, "float64") == USUAL_CUDA.seconds(0, 1e9)
