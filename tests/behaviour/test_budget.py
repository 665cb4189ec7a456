"""A byte budget: the measured peak keeps it, the bits are those without, or compiling refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor, nn
from torch.nn.functional import gelu

import roam
from roam.core.errors import BudgetError, OfflineError
from roam.inspect.step_plan import StepPlan
from tests.behaviour.small_nets import (
    WIDTH,
    Checkpointed,
    Convolutional,
    Loss,
    blocks,
    image,
    rows,
    stepped,
    trained,
)
from tests.helpers import assert_equal, unfused


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(4):
            x = gelu(self.linear(x)).sin()
        return x


@pytest.mark.parametrize("folded", [False, True], ids=["kept", "folded"])
@pytest.mark.parametrize(
    ("make", "x", "share"),
    [
        (blocks, rows, 75),
        pytest.param(blocks, rows, 55, marks=pytest.mark.slow),
        (Convolutional, image, 80),
        (Checkpointed, rows, 85),
        (Tied, rows, 75),
    ],
)
def test_the_measured_peak_keeps_the_budget_and_the_bits_are_the_same(
    make: Callable[[], nn.Module], x: Callable[[], Tensor], share: int, folded: bool
) -> None:
    expected, without = trained(make, x(), folded)
    found, peak = trained(make, x(), folded, budget=f"{share}%")
    assert_equal(found, expected)
    [graph] = roam.report().step.graphs
    assert graph.plan is not None
    assert graph.recomputed is not None
    assert graph.recomputed.modules
    assert graph.plan.peak <= graph.recomputed.limit == graph.recomputed.without * share // 100
    assert peak <= graph.recomputed.limit < without


def test_a_size_is_of_all_that_there_is() -> None:
    _, without = trained(blocks, rows())
    total = roam.report().step.total
    budget = total - without // 4
    trained(blocks, rows(), budget=budget)
    assert roam.report().step.total <= budget


def test_a_budget_that_cannot_be_kept_is_refused_before_a_step_runs() -> None:
    model = blocks()
    run = unfused(model, budget="5%")
    with pytest.raises(BudgetError, match=r"smallest total found .* goes below") as caught:
        run(rows())
    assert caught.value.found is not None
    assert caught.value.budget < caught.value.least <= caught.value.found
    assert all(p.grad is None for p in model.parameters())


def test_a_budget_below_the_parameters_names_them() -> None:
    with pytest.raises(BudgetError, match="parameters, optimizer state and inputs take"):
        unfused(blocks(), budget="1KiB")(rows())


def test_no_more_runs_again_than_without_a_budget_if_the_step_fits() -> None:
    trained(blocks, rows(), budget="auto")
    [graph] = roam.report().step.graphs
    assert graph.recomputed is not None
    assert graph.recomputed.modules == ()


def test_a_larger_budget_costs_no_more() -> None:
    seconds = []
    for share in (60, 80, 100):
        trained(blocks, rows(), budget=f"{share}%")
        seconds.append(roam.report().step.extra_time)
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[-1] == 0


def test_a_whole_step_keeps_it_too() -> None:
    expected, without = stepped(blocks, rows(), 3)
    found, peak = stepped(blocks, rows(), 3, budget="70%")
    assert_equal(found, expected)
    [graph] = roam.report().step.graphs
    assert graph.recomputed is not None
    assert peak <= graph.recomputed.limit < without


def test_an_offline_plan_says_what_runs_again() -> None:
    x = rows()
    step = roam.plan(blocks(), x, loss=lambda y: y.square().mean(), budget="60%", lowering="aten")
    assert step.lowering == "aten"
    assert 0 < step.extra_time < step.time.seconds  # type: ignore[union-attr]
    assert step.extra_time_bound <= step.extra_time
    assert "run again" in str(step.explain())


def test_the_extra_time_is_above_its_bound() -> None:
    found = roam.plan(Loss(blocks), rows(), loss=lambda y: y, budget="70%", lowering="aten")
    assert 0 < found.extra_time_bound <= found.extra_time


def test_every_point_of_the_trade_off_is_a_budget_that_can_be_kept() -> None:
    model, x, loss = blocks(), rows(), lambda y: y.square().mean()
    step = roam.plan(model, x, loss=loss, lowering="aten")
    points = step.pareto(3)
    assert points[0].peak < points[-1].peak == step.peak
    for point in points[:-1]:
        kept = roam.plan(model, x, loss=loss, lowering="aten", budget=point.peak + step.persistent)
        assert kept.peak <= point.peak
        assert 0 < point.bound <= point.seconds
        assert kept.extra_time <= 1.05 * point.seconds
    with pytest.raises(OfflineError, match="lowering='aten'"):
        StepPlan.from_json(step.to_json()).pareto()
