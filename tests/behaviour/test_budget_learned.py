"""A graph that others follow learns from its steps what these take, and is planned anew for that.

Its first plan knows nothing of them, and so saves little and runs much again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

import roam
from roam.core.budget import Following
from roam.inspect.measure import measure_peak
from roam.lowering.aten import kernels
from roam.lowering.aten.kept_budget import KeptBudget
from tests.behaviour.budget_loops import (
    ROWS,
    WIDTH,
    Looped,
    Loss,
    accumulated,
    blocks,
    broken,
    loss_apart,
    once,
    persistent_bytes,
    trained,
)
from tests.helpers import assert_equal, random, unfused

slow = pytest.mark.slow
pytestmark = pytest.mark.usefixtures("nothing_is_pending")


def looped() -> nn.Module:
    return blocks(Looped)


def shares_run_again(make: Callable[[], nn.Module], budget: int, steps: int) -> Iterator[float]:
    """Yields after each of some steps how much runs again. Checks that each keeps the budget."""
    torch._dynamo.reset()
    roam.reset_report()
    torch.manual_seed(0)
    model, x = Loss(make()), random(ROWS, WIDTH)
    run, persistent = unfused(model, budget=budget), persistent_bytes(make)
    for _ in range(steps):
        model.zero_grad(set_to_none=True)
        assert persistent + measure_peak(lambda: once(run, model, x)).peak <= budget
        yield roam.report().step.extra_share


def test_what_the_loss_takes_is_learned_in_the_first_step() -> None:
    """All of it fits, and yet a fifth of the step ran again in every step."""
    expected, _ = trained(loss_apart, once, "aot_eager")
    _, without = trained(loss_apart, once, "roam")
    budget = persistent_bytes(loss_apart) + without
    found, peak = trained(loss_apart, once, "roam", budget=budget)
    assert_equal(found, expected)
    assert persistent_bytes(loss_apart) + peak <= budget
    first, *later = shares_run_again(loss_apart, budget, 3)
    assert first > 0.1
    assert max(later) < 0.02


@pytest.mark.parametrize(
    ("make", "share"),
    [(broken, 90), pytest.param(broken, 70, marks=slow), pytest.param(loss_apart, 60, marks=slow)],
)
def test_a_graph_gets_no_dearer_when_another_saves_more(
    make: Callable[[], nn.Module], share: int
) -> None:
    """Graphs were planned anew at once, each for what the others had taken before."""
    _, without = trained(make, once, "roam")
    budget = persistent_bytes(make) + without * share // 100
    found = [*shares_run_again(make, budget, 5)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.8 * found[0]


@pytest.mark.parametrize("share", [100, pytest.param(80, marks=slow)])
def test_a_graph_that_follows_itself_is_not_planned_anew_by_what_it_took(share: int) -> None:
    """Then it would take more, and the step more than the budget."""
    _, without = trained(looped, once, "roam")
    budget = persistent_bytes(looped) + without * share // 100
    assert len([*shares_run_again(looped, budget, 4)]) == 4


def test_sizes_stay_numbers_when_a_graph_is_planned_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """They became symbols, and then some rewrites, such as those of saved tensors, do nothing."""
    symbolic: list[bool] = []
    look = kernels.has_symbolic_inputs

    def has_symbolic_inputs(graph: torch.fx.Graph) -> bool:
        symbolic.append(look(graph))
        return symbolic[-1]

    monkeypatch.setattr(kernels, "has_symbolic_inputs", has_symbolic_inputs)
    _, without = trained(broken, once, "roam")
    budget = persistent_bytes(broken) + without
    first, second = shares_run_again(broken, budget, 2)
    assert second < first
    assert symbolic
    assert not any(symbolic)


def test_gradients_that_are_accumulated_are_there_when_a_graph_is_planned_anew() -> None:
    """They count beside its runs, and so they have to count for its plan."""
    _, without = trained(loss_apart, accumulated, "roam")
    budget = persistent_bytes(loss_apart) + without * 8 // 10
    torch._dynamo.reset()
    roam.reset_report()
    model, x = Loss(loss_apart()), random(ROWS, WIDTH)
    run = unfused(model, budget=budget)
    shares: list[float] = []
    for _ in range(4):
        once(run, model, x)
        shares.append(roam.report().step.extra_share)
    assert shares[-1] < shares[0]


def test_a_graph_keeps_its_plan_if_none_leaves_to_others_what_they_take(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another plan, which saves more than is left, would end a later step with an error."""
    too_much = Following(most=2**40, left=0)
    monkeypatch.setattr(KeptBudget, "news", lambda kept: too_much if kept.seen else None)
    _, without = trained(loss_apart, once, "roam")
    first, *later = shares_run_again(loss_apart, persistent_bytes(loss_apart) + without, 3)
    assert later == [first, first]
    (said,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "could not be planned anew" in said
    assert "later graphs take" in said
