"""Scratch space that only running an op can tell."""

from __future__ import annotations

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import roam
from roam.core.problem import Problem
from roam.lowering import probe
from tests.helpers import compiler, unfused


def planned() -> Problem:
    torch._dynamo.reset()
    roam.reset_report()
    probe._known.clear()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.ReLU(), nn.Conv2d(8, 4, 3))
    unfused(model)(torch.randn(2, 3, 16, 16)).sum().backward()
    [graph] = roam.report().graphs
    assert graph.problem is not None
    return graph.problem


def test_a_running_profiler_changes_no_plan() -> None:
    """A first step under the user's profiler once had no scratch space measured at all."""
    expected = planned()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True):
        found = planned()
    assert [op.scratch for op in found.ops] == [op.scratch for op in expected.ops]
    assert any(op.scratch for op in expected.ops)


def test_measuring_draws_no_random_numbers() -> None:
    """multinomial is run on zeros, and the user's generator stands where it stood."""

    def draw(x: torch.Tensor) -> torch.Tensor:
        return torch.multinomial(x.softmax(-1), 2)

    x = torch.randn(4, 16)
    results = []
    for backend in ("aot_eager", "step"):
        torch._dynamo.reset()
        torch.manual_seed(7)
        results.append((compiler(backend)(draw)(x), torch.rand(3)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_reduced_loss_does_not_keep_the_memory_of_its_terms() -> None:
    """mse_loss returns its number in a storage as large as the input: a step once kept it."""
    weight = torch.randn(500, 500, requires_grad=True)
    x, y = torch.randn(500, 500), torch.rand(500, 500)

    def step() -> None:
        loss(x, y).backward()
        weight.grad = None

    for function in (nn.functional.mse_loss, nn.functional.smooth_l1_loss):
        torch._dynamo.reset()
        roam.reset_report()
        loss = unfused(lambda x, y, f=function: f(x @ weight, y))
        step()
        [graph] = roam.report().graphs
        assert graph.plan is not None
        assert abs(roam.measure_peak(step).peak - graph.plan.peak) <= 64
